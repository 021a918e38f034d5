"""Images by BuildKit, through `docker buildx` on the agent's engine.

`builder` is the port; `plan` decides what is sent, `dockerfile` writes what is generated,
`buildx` runs the build, `progress` follows it and `failures` explains it; `engine` talks to
the engine's API.
"""
