"""What a host is set to: cards, processor, kernel, driver, and the units of Inferhost itself."""
