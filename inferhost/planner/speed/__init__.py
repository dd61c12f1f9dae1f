"""How fast one instance can be, what to expect of it, and what could raise it."""
