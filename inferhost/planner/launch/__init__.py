"""How an engine is started: its command line and environment, each word checked against the engine's own table."""
