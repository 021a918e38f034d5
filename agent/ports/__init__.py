"""Contracts at the seams of execution: what each part owes the others, in prose and types."""
