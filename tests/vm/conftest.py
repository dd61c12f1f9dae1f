"""`pytest tests` leaves the virtual machine alone: minutes, and packages that `make test` does not need.

A file named on the command line is collected all the same, and that is what `make test-vm` does.
"""

collect_ignore_glob = ["test_*.py"]
