"""Configuration → running agent, control plane, or both in one process.

The only package that names concrete classes. What is heavy is imported where it is used: an
agent that runs no containers never loads what speaks to an engine, and an agent of a remote
server never loads the control plane.

- `agent`: the agent, from its configuration to `AgentDaemon.run`
- `direct`: an agent for one run, here and now
- `rendering`: what a submission would become, without an agent
- `backends`: one runner with its builder for each resource
- `registries`: where images are pushed to, and who lets the agent in
- `plane`: the control plane, embedded or served
- `survey`: what this machine offers
- `logs`: the log of the process, and the secrets that it must never show
"""
