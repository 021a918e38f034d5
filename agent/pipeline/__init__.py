"""A job's journey, in order: resolve, build, run, report. `attempt.py` reads top to bottom."""
