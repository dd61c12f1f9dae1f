"""Golden plans: one folder per host with its wish, the plan and the table a person reads.

`python -m tests.golden.renew` writes plans and tables anew; the diff is then read in review.
"""
