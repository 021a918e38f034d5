"""Runs the installed commands as processes, each test in a home of its own."""
