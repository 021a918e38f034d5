"""Real services for the tests, started on this machine with the standard library alone."""
