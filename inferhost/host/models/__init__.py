"""The models: fetched or looked at, proven by checksum, and forgotten again without being deleted."""
