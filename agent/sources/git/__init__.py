"""The git source: the `git` program, hardened against what a repository or its server contains.

`source` fetches from beginning to end; `remote` parses URLs, `access` applies the address policy
and provides credentials, `command` runs the program, `mirror` pins and caches commits, `checkout`
writes their files, `lfs` those of Git LFS, `errors` reads git's error output.
"""
