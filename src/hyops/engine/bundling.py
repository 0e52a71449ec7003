"""Which files a plan needs on its runner: those that its steps name, and no others (RUN-1, INV-4). Pure.

A step's input names a file of the runtime root as `file:config/overlays/site-b/hosts.yml`, and all that lies below a
folder with a slash at the end. Under a key that ends in `_state_ref` it names module state as
`<module_ref>[#<instance>]`, or `shared:<module_ref>[#<instance>]` for that of the shared environment. The state that
a step keeps goes along as it is, so that what comes back can be merged against it (RUN-6). Vault and credentials cannot
be named at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hyops.errors import ConfigError, UnsafePlanError
from hyops.model.plan import Step

FILE, SHARED, STATE_KEY = "file:", "shared:", "_state_ref"
FOLDERS = ("config", "artifacts")
SHOWN_MAX = 10
_STATE = re.compile(r"(?P<module>[a-z0-9](?:[a-z0-9._/-]*[a-z0-9])?)(?:#(?P<instance>[a-z0-9][a-z0-9_.-]{0,63}))?")
_DOTS = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|//")


@dataclass(frozen=True, order=True)
class Named:
    """What a step names: its place in the bundle, the root it lies in and where there. `where` is for words.

    The state that a step keeps is `optional`: before its first run there is none.
    """

    name: str
    root: Literal["own", "shared"]
    path: str
    is_folder: bool
    where: str
    optional: bool = False


def named_by(steps: Sequence[Step]) -> list[Named]:
    """Everything that the steps name, once each, in order of name.

    Raises:
        ConfigError: a name that is no state ref, leads out of the root, or into a folder that never travels.
    """
    found: dict[str, Named] = {}
    for step in steps:
        for key, value, where in _texts(step.inputs, f"step {step.id}"):
            if key.endswith(STATE_KEY) and value:
                named = _state(value, where)
            elif value.startswith(FILE):
                named = _file(value.removeprefix(FILE), where)
            else:
                continue
            found.setdefault(named.name, named)
    for step in steps:
        if (ref := step.state_ref()) is not None:
            kept = replace(_state(ref, f"step {step.id}"), optional=True)
            found.setdefault(kept.name, kept)
    return sorted(found.values())


def refuse_changed(approved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Return when the files are, byte for byte, those of the approved plan.

    Raises:
        UnsafePlanError: names what changed, is gone, or came since.
    """
    faults = [f"{name} is gone" for name in sorted(approved.keys() - now.keys())]
    faults += [f"{name} came since" for name in sorted(now.keys() - approved.keys())]
    faults += [f"{name} changed" for name in sorted(approved.keys() & now.keys()) if approved[name] != now[name]]
    if faults:
        more = f" and {len(faults) - SHOWN_MAX} more" if len(faults) > SHOWN_MAX else ""
        raise UnsafePlanError(
            f"the bundle is not the approved one: {'; '.join(faults[:SHOWN_MAX])}{more}",
            hint="put the files back as they were, or ask for a new decision and have its plan approved",
        )


def _state(ref: str, where: str) -> Named:
    shared = ref.startswith(SHARED)
    match = _STATE.fullmatch(ref.removeprefix(SHARED))
    if match is None or _DOTS.search(ref):
        raise ConfigError(f"{where}: {ref!r} is no state ref; write <module_ref>#<instance>, or shared:<module_ref>")
    module, instance = match["module"].replace("/", "__"), match["instance"]
    path = f"state/modules/{module}/" + (f"instances/{instance}.json" if instance else "latest.json")
    return Named(f"shared/{path}" if shared else path, "shared" if shared else "own", path, False, where)


def _file(path: str, where: str) -> Named:
    plain = path.removesuffix("/")
    if not plain or plain.startswith("/") or _DOTS.search(plain):
        raise ConfigError(f"{where}: {path!r} is not a path below the runtime root")
    if plain.split("/")[0] not in FOLDERS or plain in FOLDERS:
        raise ConfigError(
            f"{where}: {path!r} does not travel; a step names files below {' or '.join(f'{f}/' for f in FOLDERS)}",
            hint="state is named by its state ref; secrets go by --sync-env, never in a bundle",
        )
    return Named(plain, "own", plain, path.endswith("/"), where)


def _texts(value: Any, where: str, key: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{where}, {name}", str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}[{number}]", key)
    elif isinstance(value, str):
        yield key, value, where
