"""The balancer on the host: its packages, its unit, and what it says of its members at run time."""
