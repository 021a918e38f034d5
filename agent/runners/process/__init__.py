"""Jobs as local processes: a small shell supervisor per job, a folder per job, no daemon.

It is no security boundary: a job can do what the agent's user can, unless `user:` is set.
"""
