"""The control plane over HTTP: transport, repeats, errors, and the queue as the agent sees it."""
