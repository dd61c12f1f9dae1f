"""Containers: the engine's packages and configuration, the CDI specification, and who would suffer from a reload."""
