"""Image registries: logins and existence checks.

`oci` speaks the distribution API with any of them. Logins come from Docker's configuration
(`docker_config`), else from a cloud's own library (`ecr`, `google`, `acr`), each an extra of
this package. `destination` reads where images are pushed to, in W&B's words.
"""
