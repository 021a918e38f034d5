"""Authoring, on the submitter's machine: `JobRequest` → `JobDraft` → `CreatedJob` → launch spec.

`request` holds what was asked for and its checks, `draft` reads the source and finds what the job
file needs (`code_directory` for directories, `repository` for Git), `create` uploads and makes the
version, `submission` writes launch specs.
"""
