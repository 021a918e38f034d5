"""The git source: the `git` program, hardened.

`source` is the straight line; `remote` reads URLs, `addresses` says which hosts may be
reached, `command` runs the program, `refs` pins, `mirror` caches, `checkout` writes files.
"""
