"""Authoring, on the submitter's machine: `JobRequest` → `JobDraft` → `CreatedJob` → launch spec.

`request` holds what was asked for and its checks, `draft` reads the source and finds what the job
file needs, `repository` does so for Git, `version` uploads, `submission` writes launch specs.
"""
