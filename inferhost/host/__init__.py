"""The host program: observes, applies, verifies and takes back what the plan says, and computes none of it.

Runs on the host from one zipapp (`zipapp_build.py`) with Python >= 3.9, the standard library and NVIDIA's own
`pynvml.py`. What has a file is placed by Ansible or NixOS; here is written only what has none, after the record of
what was there (`baseline.py`) is safe on disk.
"""
