"""The control plane: keeps queues, items, agents, runs, blobs and logs."""
