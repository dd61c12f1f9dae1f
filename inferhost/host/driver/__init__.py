"""The NVIDIA driver as packages, and the host's package manager."""
