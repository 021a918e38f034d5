"""Image registries: logins and existence checks.

`oci` speaks the distribution API with any of them; `authorization` obtains tokens with the
logins that `logins` reads: Docker's configuration, else a cloud's library (an extra of this
package each). `destination` reads where images are pushed to, as W&B's files write it.
"""
