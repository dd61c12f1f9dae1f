"""The controller's side of `inferhost discover`: asks one host, and writes its inventory, never the host.

`remote` runs the host program there once, from a temporary folder; `inventory` makes hardware and wish of its answer;
`files` writes them without running over what a person wrote; `report` says what was found and what a plan would give.
"""
