"""What the control plane does, by noun; pages and GraphQL call these."""
