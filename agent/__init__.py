"""A self-hosted launcher for machine-learning jobs."""

__version__ = "0.1.0"
