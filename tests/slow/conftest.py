"""`pytest tests` leaves these alone: they take minutes. A file named on the command line is collected all the same,
and that is what `make test-slow` does.
"""

collect_ignore_glob = ["test_*.py"]
