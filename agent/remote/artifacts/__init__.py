"""Artifacts over W&B's operations: looked up, read, remembered, and stored."""
