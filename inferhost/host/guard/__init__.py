"""The guard: brings a hot card down at once, and keeps it down until it is cool."""
