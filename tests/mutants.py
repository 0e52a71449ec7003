"""A module with one of its guards taken out: for guards that stand inside a function, where nothing can be patched.

A guard here is an `if` (or a `for` of `if`s) that does nothing but raise. The module is read, the guard becomes `pass`,
and the rest runs as it is: so a guard that is written anew is found, and asks for a scenario of its own.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Guard:
    """Where it stands, and its condition."""

    function: str
    condition: str
    index: int

    def __str__(self) -> str:
        return f"{self.function}: {self.condition}"


class _Finder(ast.NodeTransformer):
    """Numbers the guards; the one with the number `drop` is taken out."""

    def __init__(self, drop: int | None = None) -> None:
        self.found: list[Guard] = []
        self._drop, self._inside = drop, "module"

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remember whose body it is."""
        before, self._inside = self._inside, node.name
        self.generic_visit(node)
        self._inside = before
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        """Take it out when it is the one; the condition is evaluated still, since it may bind a name."""
        self.generic_visit(node)
        if not (len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse):
            return node
        self.found.append(Guard(self._inside, ast.unparse(node.test), len(self.found)))
        if self.found[-1].index != self._drop:
            return node
        return ast.copy_location(ast.Expr(value=node.test), node)


def guards_of(module: ModuleType) -> Iterator[Guard]:
    """Every guard of a module."""
    finder = _Finder()
    finder.visit(ast.parse(inspect.getsource(module)))
    yield from finder.found


def without(module: ModuleType, guard: Guard) -> ModuleType:
    """The module as it would be without the guard, apart from the one that everybody imports."""
    tree = ast.fix_missing_locations(_Finder(guard.index).visit(ast.parse(inspect.getsource(module))))
    made = ModuleType(f"{module.__name__}_without_{guard.index}")
    made.__file__ = module.__file__
    sys.modules[made.__name__] = made  # dataclasses look their module up by name
    try:
        exec(compile(tree, str(module.__file__), "exec"), made.__dict__)  # our own source
    finally:
        del sys.modules[made.__name__]
    return made
