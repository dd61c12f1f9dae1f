"""The processor and the running kernel: governor, energy preference, kernel parameters."""
