"""Golden plans: one folder per host with its plan and the table a person reads.

The wish stands in the host's inventory; a folder with a `wish.json` holds a host that no inventory has.
`python -m tests.golden.renew` writes plans and tables anew; the diff is then read in review.
"""
