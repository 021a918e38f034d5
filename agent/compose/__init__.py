"""Configuration → running agent, control plane, or both in one process.

Large dependencies are imported where they are used: an agent without containers does not load
the Docker client, and an agent of a remote server does not load the control plane.
"""
