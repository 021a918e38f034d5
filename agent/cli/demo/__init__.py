"""`launch demo`: three example jobs through the whole system, from nothing."""
