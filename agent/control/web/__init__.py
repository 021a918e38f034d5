"""The web pages: rendered by the server, updated on server-sent events.

Their routes: `routes.py`; who may use them: `control/middleware/access.py`.
"""
