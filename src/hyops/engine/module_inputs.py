"""What a person hands to a module, against what its spec takes: every fault with file, line and key (MOD-1, UX-2).

Pure: the value and the line of every key come from whoever read the file.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hyops.errors import ConfigError
from hyops.model.module_spec import InputSpec, ModuleSpec

Where = tuple[str | int, ...]
TEXT_MAX = 64 * 1024
FAULTS_MAX = 20
KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "path": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "mapping": (dict,),
}


def resolve(spec: ModuleSpec, value: Any, lines: Mapping[Where, int], source: str) -> dict[str, Any]:
    """The inputs with their defaults.

    Args:
        lines: path in the document -> line; `()` is the document's own.
    Raises:
        ConfigError: one line per fault, `file:line: key: what is wrong`.
    """
    whole = InputSpec(type="mapping", about=spec.title, keys=spec.inputs)
    faults: list[str] = []
    for where, what in _faults(whole, value, ()):
        line = next((lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), 1)
        faults.append(f"{source}:{line}: {'.'.join(map(str, where)) or '(top)'}: {what}")
        if len(faults) == FAULTS_MAX:
            break
    if faults:
        raise ConfigError(
            "\n".join(faults), hint=f"the README of {spec.module_ref} has an example; nothing was touched"
        )
    found: dict[str, Any] = _filled(whole, value)
    return found


def filled(spec: ModuleSpec, value: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with their defaults, of a value that has no file of its own.

    Raises:
        ConfigError: `module: inputs.key: what is wrong`, for every fault.
    """
    whole = InputSpec(type="mapping", about=spec.title, keys=spec.inputs)
    faults = [".".join(["inputs", *map(str, where)]) + f": {what}" for where, what in _faults(whole, dict(value), ())]
    if faults:
        raise ConfigError(f"{spec.module_ref}: " + "; ".join(faults[:FAULTS_MAX]))
    found: dict[str, Any] = _filled(whole, dict(value))
    return found


def _faults(spec: InputSpec, value: Any, where: Where) -> Iterator[tuple[Where, str]]:
    good = KINDS[spec.type]
    if not isinstance(value, good) or (isinstance(value, bool) and spec.type != "boolean"):
        yield where, f"{spec.type} is needed: {spec.about}"
        return
    if isinstance(value, str):
        yield from ((where, what) for what in _text(spec, value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value) or math.isinf(value):
            yield where, "no number"
        elif not (-math.inf if spec.minimum is None else spec.minimum) <= value <= (spec.maximum or math.inf):
            yield where, f"must be from {spec.minimum} to {spec.maximum}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if spec.each is not None:
                yield from _faults(spec.each, item, (*where, index))
    elif isinstance(value, dict):
        yield from _entries(spec, value, where)


def _text(spec: InputSpec, value: str) -> Iterator[str]:
    if len(value) > TEXT_MAX or "\0" in value:
        yield f"no text of at most {TEXT_MAX} characters"
    elif spec.choices is not None and value not in spec.choices:
        near = difflib.get_close_matches(value, spec.choices, n=1)
        yield f"one of {', '.join(spec.choices)}" + (f"; did you mean {near[0]!r}?" if near else "")
    elif spec.pattern is not None and re.fullmatch(spec.pattern, value) is None:
        yield f"{value[:80]!r} does not fit {spec.pattern}"


def _entries(spec: InputSpec, value: dict[str, Any], where: Where) -> Iterator[tuple[Where, str]]:
    if spec.keys is None:
        for key, item in value.items():
            if spec.each is not None:
                yield from _faults(spec.each, item, (*where, key))
        return
    for key, item in value.items():
        if key in spec.keys:
            yield from _faults(spec.keys[key], item, (*where, key))
            continue
        near = difflib.get_close_matches(str(key), list(spec.keys), n=1)
        yield (*where, key), "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    for key, below in spec.keys.items():
        if below.required and key not in value:
            yield where, f"{key} is missing: {below.about}"


def _filled(spec: InputSpec, value: Any) -> Any:
    if spec.type == "list" and spec.each is not None:
        return [_filled(spec.each, item) for item in value]
    if spec.type != "mapping" or (spec.keys is None and spec.each is None):
        return value
    if spec.each is not None:
        return {key: _filled(spec.each, item) for key, item in value.items()}
    given = {key: _filled((spec.keys or {})[key], item) for key, item in value.items()}
    ours = {key: below.default for key, below in (spec.keys or {}).items() if below.default is not None}
    return {**ours, **given}
