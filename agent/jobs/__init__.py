"""Authoring: what a submitter's machine does before anything is queued."""
