"""Image registries: credentials and existence checks."""
