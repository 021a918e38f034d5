"""A project with a lock of uv's."""

LOCKED_PROJECT = """[project]
name = "job"
version = "0.1"
requires-python = ">=3.11"
dependencies = ["six==1.16.0"]
"""
UV_LOCK = """version = 1
requires-python = ">=3.11"

[[package]]
name = "job"
version = "0.1"
source = { virtual = "." }
dependencies = [{ name = "six" }]

[package.metadata]
requires-dist = [{ name = "six", specifier = "==1.16.0" }]

[[package]]
name = "six"
version = "1.16.0"
source = { registry = "https://index.example.org/simple" }
wheels = [
    { url = "https://index.example.org/six-1.16.0-py2.py3-none-any.whl", hash = "sha256:HASH" },
]
""".replace("HASH", "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254")
