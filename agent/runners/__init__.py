"""Runners: jobs as Docker containers, local processes or Kubernetes Jobs.

`local` is what the first two share.
"""
