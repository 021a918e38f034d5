"""The launch agent's process: one loop, one file."""
