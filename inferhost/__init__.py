"""Inferhost: GPU inference hosts, declared, placed, proven and put back."""

__version__ = "0.1.0"
