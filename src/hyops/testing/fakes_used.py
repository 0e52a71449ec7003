"""Which tests use a fake of something that cannot be had here: read from what a test names, itself or by its helpers.

A fake is known by its name alone (`FakeVault`, `power_switch_mode`). A test uses it where its body, its fixtures, its
class, or whatever these name in the same module or import from another one under `tests`, says that name. Nothing is
run, and nobody keeps a list of such tests.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Word = tuple[str, str]
"""A name, or a name and what is taken out of it: `("tfc_server", "TfcServer")`."""


def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file; the same text is parsed once."""
    return _parsed(path.read_text(encoding="utf-8"))


@functools.cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


class FakesUsed:
    """Answers for every test of one tree; each file is read once."""

    def __init__(self, tests: Path, fakes: Collection[str]) -> None:
        self._tests, self._fakes = tests, frozenset(fakes)
        self._modules: dict[Path, _Module] = {}
        self._known: dict[tuple[Path, Word], list[tuple[_Module, str]]] = {}

    def by(self, path: str, line: int) -> list[str]:
        """The fakes that the test uses which begins there; sorted.

        Args:
            path: the test's file, relative to what `tests` stands in.
            line: the line of its `def`.
        """
        module = self._module(self._tests.parent / path)
        found: set[str] = set()
        seen: set[tuple[Path, str]] = set()
        open_words = [(module, word) for word in module.words_at(line)]
        while open_words:
            where, (name, inner) = word = open_words.pop()
            if hits := {where.imports.get(name, ("", name))[1], inner} & self._fakes:
                found |= hits
                continue
            if (known := self._known.get((where.path, word[1]))) is None:
                known = self._known[where.path, word[1]] = list(self._defining(where, name, inner))
            for below, definition in known:
                if (below.path, definition) not in seen:
                    seen.add((below.path, definition))
                    open_words += [(below, word) for word in below.words(definition)]
        return sorted(found)

    def _defining(self, where: _Module, name: str, inner: str) -> Iterator[tuple[_Module, str]]:
        """Where a word is defined, if that is among the tests; a fixture may stand in a `conftest.py` above."""
        if where.defines(name):
            yield where, name
        elif name in where.imports:
            source, original = where.imports[name]
            for dotted, definition in ((source, original), (f"{source}.{original}".strip("."), inner)):
                for place in (self._tests, where.path.parent):
                    file = place.joinpath(*dotted.split(".")).with_suffix(".py")
                    if dotted and file.is_file() and (module := self._module(file)).defines(definition):
                        yield module, definition
        else:
            for folder in where.path.relative_to(self._tests.parent).parents:
                file = self._tests.parent / folder / "conftest.py"
                if file.is_file() and (module := self._module(file)).defines(name):
                    yield module, name

    def _module(self, path: Path) -> _Module:
        if path not in self._modules:
            self._modules[path] = _Module(path)
        return self._modules[path]


class _Module:
    """`imports`: local name -> (module, name there; of a whole module its)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tree = tree_of(path)
        self._words: dict[str, set[Word]] = {}
        self._defined: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for node in _statements(self._tree.body):
            if isinstance(node, ast.ImportFrom):
                self.imports |= {one.asname or one.name: (node.module or "", one.name) for one in node.names}
            elif isinstance(node, ast.Import):
                self.imports |= {one.asname or one.name: ("", one.name) for one in node.names}
        for statement in self._tree.body:
            for name in _defines(statement):
                self._defined.setdefault(name, []).append(statement)

    def defines(self, name: str) -> bool:
        """Whether it is a name of the module's own, at its top."""
        return name in self._defined

    def words(self, name: str) -> set[Word]:
        """What the definitions of this name say."""
        if name not in self._words:
            self._words[name] = set().union(*(_words(one) for one in self._defined[name]))
        return self._words[name]

    def words_at(self, line: int) -> set[Word]:
        """What the test there says, with what its class says outside of tests."""
        return _at(self._tree.body, line)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement, also within others; expressions, which are most of a tree, have none."""
    for statement in body:
        yield statement
        for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
            for block in getattr(statement, inner, []):
                yield from _statements([block]) if isinstance(block, ast.stmt) else _statements(block.body)


def _at(body: list[ast.stmt], line: int) -> set[Word]:
    for node in body:
        if isinstance(node, Definition) and node.lineno == line:
            return _words(node)
        if isinstance(node, ast.ClassDef) and node.lineno < line <= (node.end_lineno or 0):
            around = [one for one in node.body if not getattr(one, "name", "").startswith("test")]
            shared = [*around, *node.bases, *node.decorator_list]
            return _at(node.body, line).union(*(_words(one) for one in shared))
    return set()


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, Definition):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [one.id for one in targets if isinstance(one, ast.Name)]


def _words(node: ast.AST) -> set[Word]:
    """Every name, every attribute, and every parameter, which may be a fixture."""
    found: set[Word] = set()
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            found.add((one.id, ""))
        elif isinstance(one, ast.Attribute):
            found.add((one.value.id if isinstance(one.value, ast.Name) else "", one.attr))
        elif isinstance(one, ast.arg):
            found.add((one.arg, ""))
    return found
