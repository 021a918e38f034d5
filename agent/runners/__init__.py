"""Runners: jobs as Docker containers or as local processes."""
