"""Builders: `docker` (BuildKit), `prebuilt` (ready images), `virtualenv` (for processes).

`context` and `requirements` read a source tree for all of them; `uv` understands uv's words.
"""
