"""Blueprints from the catalogue: found by reference, read strictly, faults named with file, line and key (MOD-1)."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from hyops.errors import ConfigError
from hyops.model.plan import OF_MODULES, Blueprint, BlueprintRef, Step

FILE = "blueprint.yml"
BYTES_MAX = 256 * 1024


def default_roots() -> list[Path]:
    """Where a shipped catalogue lies: inside the installed package, or beside the sources of a checkout."""
    package = Path(str(resources.files("hyops")))
    return [root for root in (package / "_catalog", package.parents[1] / "catalog") if (root / "blueprints").is_dir()]


class Catalog:
    """Blueprints of one or more catalogue roots; the first root that has a reference wins.

    A file is read whenever it is asked for, and parsed again only when its bytes are other ones.
    """

    def __init__(self, roots: Sequence[Path] | None = None) -> None:
        self._roots = list(roots) if roots is not None else default_roots()
        self._parsed: dict[Path, tuple[bytes, Blueprint]] = {}

    def refs(self) -> list[str]:
        """Every blueprint reference, by name."""
        found = {
            str(file.parent.relative_to(root / "blueprints"))
            for root in self._roots
            for file in (root / "blueprints").rglob(FILE)
        }
        return sorted(found)

    def blueprint(self, ref: str) -> Blueprint:
        """The blueprint of a reference.

        Raises:
            ConfigError: no such reference (with the nearest one), or a fault in its file.
        """
        try:
            TypeAdapter(BlueprintRef).validate_python(ref)
        except ValidationError as exc:
            raise ConfigError(f"{ref!r} is not a blueprint reference like dr/postgresql-warm-promote@v1") from exc
        if ref.startswith(OF_MODULES):
            raise ConfigError(
                f"{ref!r} is the plan of a single module: set target_kind: module, and target_ref to the module"
            )
        for root in self._roots:
            path = root / "blueprints" / ref / FILE
            if path.is_file():
                found = self._read(path)
                if found.blueprint_ref != ref:
                    raise ConfigError(f"{path}: blueprint_ref is {found.blueprint_ref!r}, but its folder says {ref!r}")
                return found
        near = difflib.get_close_matches(ref, self.refs(), n=1)
        raise ConfigError(f"no blueprint {ref!r} in the catalogue" + (f"; did you mean {near[0]!r}?" if near else ""))

    def _read(self, path: Path) -> Blueprint:
        text = path.read_bytes()
        known = self._parsed.get(path)
        if known is None or known[0] != text:
            known = self._parsed[path] = (text, parse_blueprint(text, path))
        return known[1]


def read_blueprint(path: Path) -> Blueprint:
    """Read and parse one file; see `parse_blueprint`."""
    return parse_blueprint(path.read_bytes(), path)


def parse_blueprint(text: bytes, path: Path) -> Blueprint:
    """Parse what stands in the file `path`.

    Raises:
        ConfigError: `file:line: key: what is wrong`, for every fault.
    """
    if len(text) > BYTES_MAX:
        raise ConfigError(f"{path}: {len(text)} bytes, more than {BYTES_MAX}")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{path}: YAML aliases are not allowed: a short file could unfold into a huge one")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_twins(node, str(path))
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    try:
        return Blueprint.model_validate_json(_json(value, path))
    except ValidationError as exc:
        faults = [_fault(node, error["loc"], error["msg"], error["type"], path) for error in exc.errors()]
        raise ConfigError("; ".join(faults)) from exc


def _json(value: Any, path: Path) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"{path}: {exc}; quote what YAML reads as a date or a special number") from exc


def _fault(node: Any, loc: Iterable[int | str], message: str, kind: str, path: Path) -> str:
    line, names = 1, []
    for part in loc:
        names.append(str(part))
        below, at = _child(node, part)
        line, node = at or (node.start_mark.line + 1 if node is not None else line), below
    hint = ""
    if kind == "extra_forbidden" and names:
        known = Step.model_fields if "steps" in names[:-1] else Blueprint.model_fields
        near = difflib.get_close_matches(names[-1], list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{path}:{line}: {'.'.join(names) or '(top)'}: {message}{hint}"


def _child(node: Any, part: int | str) -> tuple[Any, int | None]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None, None


def _refuse_twins(node: Any, path: str) -> None:
    """A key that stands twice would be read differently by two readers."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise ConfigError(f"{path}:{key.start_mark.line + 1}: key {key.value!r} stands twice")
            seen.add(key.value)
            _refuse_twins(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twins(item, path)
