"""Jobs as local processes: a shell supervisor and a folder per job.

No security boundary: a job can do what the agent's user can, unless `user:` is set.
"""
