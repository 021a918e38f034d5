"""The long-running agent: one loop, one file."""
