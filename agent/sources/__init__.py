"""Where code comes from: git, a packed directory."""
