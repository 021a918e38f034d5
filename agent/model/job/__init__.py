"""The pure rules of jobs: names, runtimes, entry points, requirements, digests, stored files.

Nothing here does I/O. Authoring, control plane and agent use the same rules.
"""
