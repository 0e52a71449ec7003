"""YAML files that people write: read once, strictly; every fault names file, line, key and the nearest word (UX-2)."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from hyops.errors import ConfigError, PrerequisiteError
from hyops.model.base import Part
from hyops.model.words import shown

P = TypeVar("P", bound=Part)
BYTES_MAX = 1024 * 1024
TOLD_MAX = 40  # characters of a value in an error
Where = tuple[str | int, ...]


def read_yaml(path: Path, kind: type[P]) -> P:
    """The file as `kind`.

    Raises:
        PrerequisiteError: it cannot be read. ConfigError: one line per fault, `file:line: key: what is wrong`.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}") from exc
    return parse_yaml(data, kind, source=str(path))


def parse_yaml(data: bytes, kind: type[P], *, source: str) -> P:
    """The same from bytes."""
    value, lines = with_lines(data, source=source)
    return typed(value, lines, kind, source=source)


def with_lines(data: bytes, *, source: str) -> tuple[Any, dict[Where, int]]:
    """The plain value, and the line of every key by its path.

    Raises:
        ConfigError: it is not YAML, two readers could read it differently, or a number is none that a record can keep.
    """
    if len(data) > BYTES_MAX:
        raise ConfigError(f"{source}: {len(data)} bytes, more than {BYTES_MAX}")
    lines: dict[Where, int] = {}
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{source}: aliases are not allowed: a short file could unfold into a huge one")
        node = yaml.compose(data, Loader=yaml.SafeLoader)
        if node is None:
            raise ConfigError(f"{source}: empty")
        return _value(node, (), lines, source), lines
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError(f"{source}:{line}: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfigError(f"{source}: not YAML: {exc}") from exc


def typed(value: Any, lines: Mapping[Where, int], kind: type[P], *, source: str) -> P:
    """A value that was read with its lines, as `kind`.

    Raises:
        ConfigError: one line per fault, `file:line: key: what is wrong`.
    """
    try:
        return kind.model_validate_json(json.dumps(kind.respelled(value), allow_nan=False))
    except ValidationError as exc:
        errors = exc.errors()
        told = [e for e in errors if "[" not in str(("", *e["loc"])[-1])] or errors  # a union's other branch is noise
        faults = [_fault(error, lines, kind, source) for error in told]
        raise ConfigError("\n".join(faults)) from exc
    except ValueError as exc:
        raise ConfigError(f"{source}: {exc}") from exc


def _value(node: yaml.Node, where: Where, lines: dict[Where, int], source: str) -> Any:
    """The plain value of a node, with the line of every key in `lines`; twins, anchors and odd keys are refused."""
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"{source}:{line}: a key is not plain text; put it in quotes")
            name = _characters(
                key.value, f"{source}:{line}: {'.'.join(map(str, (*where, shown(key.value, TOLD_MAX))))}"
            )
            if name in found:
                raise ConfigError(f"{source}:{line}: {name}: stands twice")
            lines[(*where, name)] = line
            found[name] = _value(item, (*where, name), lines, source)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*where, index), lines, source) for index, item in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value  # a date is text until its field says otherwise
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.endswith(":binary"):
        raise ConfigError(f"{source}:{node.start_mark.line + 1}: tag {node.tag} is not allowed")
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
    except (ValueError, LookupError, OverflowError) as exc:  # a tag that its text does not keep, or thousands of digits
        raise ConfigError(
            f"{_at(node, where, source)}: {shown(node.value, TOLD_MAX)} cannot be read as {node.tag.rpartition(':')[2]}"
        ) from exc
    if isinstance(value, str):
        return _characters(value, _at(node, where, source))
    if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:  # so said of NaN too
        raise ConfigError(f"{_at(node, where, source)}: {shown(node.value, TOLD_MAX)} is no number to compare with")
    return value


def _characters(text: str, place: str) -> str:
    """The text, with `\\ud83d\\ude00` as the one character that JSON means by it; half of such a pair is none."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{place}: {shown(text, TOLD_MAX)} has half of a character (a lone surrogate)") from exc


def _at(node: yaml.Node, where: Where, source: str) -> str:
    return f"{source}:{node.start_mark.line + 1}: {'.'.join(map(str, where)) or '(top)'}"


def _fault(error: Any, lines: Mapping[Where, int], kind: type[Part], source: str) -> str:
    where = _place(tuple(error["loc"]), lines)
    known = next((lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), 1)
    key = ".".join(str(part) for part in where) or "(top)"
    text = str(error["msg"])
    word, choices = str(error.get("input", "")), _choices(error)
    if error["type"] == "extra_forbidden":
        text, word, choices = "unknown key", str(where[-1]), sorted(_keys(kind))
    near = difflib.get_close_matches(word, choices, n=1)
    return f"{source}:{known}: {key}: {text}" + (f"; did you mean {near[0]!r}?" if near else "")


def _place(loc: Where, lines: Mapping[Where, int]) -> Where:
    """The path in the document: pydantic also names the branch of a union, which no person wrote."""
    where: Where = ()
    for index, part in enumerate(loc):
        if (*where, part) in lines or index == len(loc) - 1:
            where = (*where, part)
    return where


def _choices(error: Any) -> list[str]:
    expected = str(error.get("ctx", {}).get("expected", ""))
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",") if part.strip(" '")]


def _keys(kind: type[Part]) -> set[str]:
    """Every key anywhere below a type: good enough to guess what was meant."""
    schema = kind.model_json_schema(by_alias=True)
    parts = [schema, *schema.get("$defs", {}).values()]
    return {key for part in parts for key in part.get("properties", {})}
