"""Prints the verdicts of a host program's answer, read from standard input, as the table that playbooks show."""

import json
import sys

from inferhost import table

print(table.render_verdicts(json.load(sys.stdin)), end="")
