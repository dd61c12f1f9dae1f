"""The cards: found, set, proven and put back through NVML."""
