"""What happens to a flag or variable that nobody can say anything about: the wish's policy decides."""

from __future__ import annotations

from inferhost.planner.request import Instance
from inferhost.schema.problems import Problem


def unknown_setting(instance: Instance, path: str, message: str) -> Problem | None:
    """The refusal of an unknown setting under the policy `refuse`; under `warn` it is passed on as pending."""
    if instance.text("unknown_settings") == "warn":
        return None
    option = instance.path("unknown_settings")
    return Problem(path, message, f"remove it, or {option}: warn passes it on", "unknown-setting")
