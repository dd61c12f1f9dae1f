"""The key that clients have to send: how it reaches the engine without a word of it in plan, arguments or log.

The wish names a file of the host that root alone can read. systemd hands it to the unit as a credential; an engine
that reads a file is told its place, one that reads a variable gets it from a shell that replaces itself.
"""

from __future__ import annotations

from inferhost.catalogue.rows import EngineRow
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance
from inferhost.planner.service.surroundings import ON_HOST, RESTART
from inferhost.schema.plan import Reason

OPTION = "api_key_file"
CREDENTIAL = "api-key"
GAIN = "none: strangers are kept out"


def credential_path(instance: Instance, unit: str) -> str:
    """Where the engine finds the key: where systemd puts the credential of a unit, or a mount of its container.

    Source: systemd.exec(5), LoadCredential=.
    """
    if instance.text("mode") != ON_HOST:
        return f"/run/secrets/{CREDENTIAL}"
    return f"/run/credentials/{unit}/{CREDENTIAL}"


def key_obstacles(engine: EngineRow, instance: Instance) -> list[tuple[str, str]]:
    """Why this engine cannot be given a key, where the wish wants one."""
    if not instance.text(OPTION) or engine.api_key.how in ("file", "environment"):
        return []
    return [(OPTION, f"{engine.api_key.because}; let the proxy before it ask for the key")]


def key_words(engine: EngineRow, instance: Instance, unit: str) -> tuple[str, ...]:
    """The arguments that name the key's place."""
    if not instance.text(OPTION) or engine.api_key.how != "file":
        return ()
    return engine.api_key.name, credential_path(instance, unit)


def key_file(engine: EngineRow, instance: Instance) -> str | None:
    """Where the host finds the key for its own requests."""
    if engine.api_key.how == "own":
        return f"/var/cache/inferhost/{instance.name}/{engine.api_key.name}"
    return instance.text(OPTION) or None


def command(engine: EngineRow, instance: Instance, argv: tuple[str, ...]) -> tuple[str, ...]:
    """What is started: the engine's own words, or a shell that gives it the variable and becomes it."""
    if not instance.text(OPTION) or engine.api_key.how != "environment":
        return argv
    contained = instance.text("mode") != ON_HOST
    place = credential_path(instance, "") if contained else f"$CREDENTIALS_DIRECTORY/{CREDENTIAL}"
    script = f'{engine.api_key.name}=$(cat "{place}") exec "$@"'
    return ("/bin/sh", "-c", script, "sh", *argv)


def credential_entries(instance: Instance, unit: str) -> tuple[list[tuple[str, str, str]], list[Reason]]:
    """What the drop-in says of the key, with its reason."""
    path = instance.text(OPTION)
    if not path:
        return [], []
    value = f"{CREDENTIAL}:{path}".replace("%", "%%")
    because = "systemd reads the key as root and shows it to this unit alone"
    source = instance.source(OPTION)
    found = reason(f"dropins.{unit}.LoadCredential", value, because, source, gain=GAIN, disruption=RESTART)
    return [("Service", "LoadCredential", value)], [found]


def key_reasons(engine: EngineRow, instance: Instance) -> list[Reason]:
    """Why the engine is told of the key's place."""
    if not instance.text(OPTION) or engine.api_key.how != "file":
        return []
    because = "the key's place and not the key: arguments are for all to see"
    path = f"service.{instance.name}.argv.{engine.api_key.name}"
    source = f"catalogue:engines/{engine.key}#api_key"
    return [reason(path, instance.text(OPTION), because, source, gain=GAIN, disruption=RESTART)]
