"""The web pages: rendered by the server, updated on server-sent events.

Their routes: `control/app.py`, `_add_web_routes`.
"""
