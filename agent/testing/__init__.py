"""Conformance suites for runners, builders and sources, for us and for third parties."""
