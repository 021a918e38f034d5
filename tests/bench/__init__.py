"""Benchmarks as ratios in one run: ours beside the bare engine, on the same machine and load."""
