"""What runs it: docker, processes."""
