"""The engine instances of a host: which engine, on which cards, with what budget, as which unit."""
