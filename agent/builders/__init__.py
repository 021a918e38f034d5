"""Builders: `docker` (BuildKit), `prebuilt` (ready images), `virtualenv` (for processes).

`nothing` refuses (W&B's `noop`).
`context` and `requirements` read a source tree for all of them; `uv` understands uv's words.
"""
