"""Stored bytes and their routes: contents of artifacts, files of runs, logs."""
