"""What every request passes: host and origin checks, authentication, limits, errors."""
