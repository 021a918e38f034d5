"""The web pages: rendered by the server, updated on server-sent events."""
