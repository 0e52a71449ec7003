"""Files that people write, as trees that remember where each key stands: what static rules look at (DRIFT-1, UX-2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Where = tuple[str | int, ...]


@dataclass(frozen=True)
class Node:
    """One value. Exactly one of `text`, `entries` and `items` is set.

    `line` counts from 1 and is the line of the key that the value stands under (of the value itself in a list);
    `text_line` is the line of the first character of the text, which in a block of text lies below.
    """

    line: int
    where: Where = ()
    text: str | None = None
    text_line: int = 1
    quoted: bool = False
    entries: Mapping[str, Node] | None = None
    items: tuple[Node, ...] | None = None

    @property
    def key(self) -> str:
        """The path as people read it: `steps.2.inputs.public_ip`."""
        return ".".join(str(part) for part in self.where) or "(top)"

    def get(self, name: str) -> Node | None:
        """The value under a key; None where there is no such key, or no mapping."""
        return self.entries.get(name) if self.entries is not None else None

    def below(self) -> Iterator[Node]:
        """This node and all below it, in the order of the file; keeps its own stack, so no depth is too much."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield node
            inside = node.entries.values() if node.entries is not None else node.items or ()
            todo += reversed(list(inside))


@dataclass(frozen=True)
class Allowance:
    """`# hyops-lint: allow RULE -- reason`; `line` is the comment's, `covers` the line that it speaks about."""

    line: int
    covers: int
    rule: str
    reason: str


@dataclass(frozen=True)
class Document:
    """One document of one file. `rows` is for tables (CSV): line and cells."""

    path: str
    root: Node | None = None
    rows: tuple[tuple[int, tuple[str, ...]], ...] = ()
    allowances: tuple[Allowance, ...] = field(default=())


class DocumentReader(Protocol):
    """Finds and reads files."""

    def find(self, path: Path) -> list[Path]:
        """The file itself, or every file below a folder that could hold a document, by name.

        Raises:
            UsageError: no such file or folder. ConfigError: a folder that cannot be listed, or too many files.
        """

    def read(self, path: Path, *, named: bool) -> list[Document]:
        """Its documents; none for a table that is not ours, unless a person `named` it.

        Raises:
            ConfigError: `file:line: what is wrong`.
        """
