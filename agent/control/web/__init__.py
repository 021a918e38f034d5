"""Pages for people: server-rendered, kept fresh by server-sent events."""
