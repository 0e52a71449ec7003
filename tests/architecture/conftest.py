"""Where the sources are, and every import in them, also those inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "hyops"


@dataclass(frozen=True)
class Import:
    """One import: which module, in which file and line."""

    source: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def imports_of(text: str, module: str) -> Iterator[Import]:
    """Every import of a module's text, also lazy ones and `importlib.import_module("...")`."""
    package = module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base]).rstrip(".")
            for alias in node.names:
                yield Import(module, node.lineno, f"{base}.{alias.name}")
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            for arg in node.args:
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str):
                    yield Import(module, node.lineno, arg.value)


def modules() -> dict[str, Path]:
    """Every module of hyops by its dotted name."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def sources() -> dict[str, Path]:
    """Every module of hyops by its dotted name."""
    return modules()


@pytest.fixture(scope="session")
def imports(sources: dict[str, Path]) -> list[Import]:
    """Every import in hyops."""
    return [found for name, path in sources.items() for found in imports_of(path.read_text(), name)]
