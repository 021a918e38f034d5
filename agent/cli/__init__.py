"""The commands: parse, call, render, exit code; one module per group."""
