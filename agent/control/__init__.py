"""The control plane: keeps queues, items, agents, runs, artifacts and logs."""
