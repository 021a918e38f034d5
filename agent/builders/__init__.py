"""Builders: `docker` (BuildKit), `prebuilt` (ready images), `virtualenv` (for processes).

`nothing` refuses (W&B's `noop`).
`context`, `ignore`, `requirements` and `locks` read a source tree for all of them; `uv`
understands uv's words, `pythons` finds interpreters.
"""
