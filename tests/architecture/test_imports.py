"""Imports point one way: cli, web -> compose -> services -> domain, and adapters -> ports -> model, errors."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOMAIN = {"control", "engine", "runner", "secretsync", "cutover", "fence", "evidence", "fleet", "lint", "access"}
BASE = {"model", "errors", "ownership", "cores", "_version"}
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "ownership": set(),
    "cores": set(),
    "model": {"errors"},
    "ports": BASE,
    **{name: {"ports"} | BASE for name in DOMAIN - {"control"}},
    "control": {"ports"} | BASE | DOMAIN,
    "adapters": {"ports"} | BASE,
    "testing": {"ports"} | BASE,
    "services": {"ports"} | BASE | DOMAIN,  # are handed their parts, so that each runs on fakes too
    "compose": {"services", "adapters", "ports"} | BASE | DOMAIN,
    "cli": {"compose", "services", "ports"} | BASE | DOMAIN,
    "web": {"compose", "services", "ports"} | BASE | DOMAIN,
    "__main__": {"cli", "compose", "services", "runner", "fence", "cores", "_version"},
}
STDLIB_ONLY = ("hyops.runner.serve", "hyops.runner.pull", "hyops.fence.call", "hyops.engine.journal")


def load_conftest() -> ModuleType:
    """The reader of imports, so that it can be tested on made-up sources too."""
    spec = importlib.util.spec_from_file_location("architecture_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def layer(part: str) -> str:
    """Where a package or module of hyops stands; composition is one layer, `compose` and `compose_<role>`."""
    return "compose" if part.startswith("compose_") else part


def wrong_way(source: str, target: str) -> bool:
    """Whether an import from one module of hyops to another breaks the rule."""
    here, there = source.split("."), target.split(".")
    if there[0] != "hyops" or len(there) < 2 or len(here) < 2:
        return False
    ours, theirs = layer(here[1]), layer(there[1])
    return ours != theirs and theirs not in ALLOWED.get(ours, set())


@pytest.mark.req("INV-8")
def test_no_import_points_the_wrong_way(imports: list[Any]) -> None:
    """Every import, also one inside a function, follows the layers; no domain package knows another."""
    assert [str(found) for found in imports if wrong_way(found.source, found.target)] == []


def test_every_package_has_a_layer(sources: dict[str, Path]) -> None:
    """A new package says where it stands before it is used."""
    packages = {layer(name.split(".")[1]) for name in sources if "." in name}

    assert packages - set(ALLOWED) == set()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("hyops.fence.x", "from hyops.evidence import chain"),
        ("hyops.model.x", "def f():\n    from hyops.ports import clock"),
        ("hyops.adapters.x", "import hyops.engine.journal"),
        ("hyops.engine.x", "import importlib\nimportlib.import_module('hyops.cli.main')"),
        ("hyops.testing.x", "from hyops.control import decision"),
        ("hyops.fence.x", "from ..evidence import chain"),
        ("hyops.cli.x", "from hyops import adapters"),
        ("hyops.services.x", "from hyops import compose_loop"),
        ("hyops.compose_loop", "from hyops.cli import table"),
    ],
)
def test_a_wrong_import_is_seen_in_every_disguise(source: str, text: str) -> None:
    """Lazy, relative, by name or by importlib: the reader finds it (the guard of this guard)."""
    found = list(load_conftest().imports_of(text, source))

    assert any(wrong_way(one.source, one.target) for one in found)


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_what_starts_once_a_connection_is_standard_library_only(
    name: str, sources: dict[str, Path], imports: list[Any]
) -> None:
    """The peer of a dispatch loads no package but the standard library, at its top or through what it imports."""
    if name not in sources:
        pytest.skip(f"{name} is not there yet")
    todo, seen = [name], set()
    while todo:
        module = todo.pop()
        seen.add(module)
        tree = ast.parse(sources[module].read_text())
        top = {node.lineno for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
        for found in imports:
            if found.source != module or found.line not in top:
                continue
            first = found.target.split(".")[0]
            assert first == "hyops" or first in sys.stdlib_module_names, str(found)
            near = [m for m in (found.target, found.target.rpartition(".")[0]) if m in sources and m not in seen]
            todo += near[:1]


def test_only_compose_and_adapters_name_a_library_of_the_outside(imports: list[Any]) -> None:
    """asyncssh, httpx, psycopg, dnspython and asyncinotify stand behind a port, in adapters alone."""
    outside = {"asyncssh", "httpx", "psycopg", "dns", "asyncinotify", "hvac", "boto3", "botocore"}
    found = [
        str(one)
        for one in imports
        if one.target.split(".")[0] in outside and one.source.split(".")[1] not in {"adapters", "testing"}
    ]

    assert found == []
