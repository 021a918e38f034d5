"""Jobs as Kubernetes Jobs of one cluster."""
