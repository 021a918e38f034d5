"""Builders: `docker` (images, by BuildKit), `virtualenv` (for processes), `noop` (refuses).

`image/` plans an image, `buildkit` builds it, `prebuilt` resolves ready images; `requirements`
finds the packages of a job and `uv` installs them.
"""
