"""The pure rules of jobs: names, runtimes, entry points, requirements, digests, stored files.

Texts come in, values go out; nothing here reads a file or calls anybody. Authoring, control
plane and agent use the same rules, so that all three see the same job.
"""
