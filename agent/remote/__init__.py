"""The control plane as seen over HTTP: implements the queue port, classifies retries."""
