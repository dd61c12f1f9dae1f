"""Which names say that they carry a secret, for flags and variables alike.

The catalogue marks the secrets that it knows; this is for names that it does not know.
"""

from __future__ import annotations

import re

SECRET_NAME = re.compile(r"(.*[-_]|.*api)?(key|token|secret)|.*password", re.IGNORECASE)


def names_a_secret(name: str) -> bool:
    """Whether the last word of a flag or variable is key, token, secret or password."""
    return SECRET_NAME.fullmatch(name) is not None
