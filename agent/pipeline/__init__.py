"""A job's journey, in order: resolve, build, run, report."""
