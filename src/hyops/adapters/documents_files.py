"""YAML files and CSV tables of a file system as documents with lines (DRIFT-1, UX-2).

What two readers could read differently is refused with its line: anchors, aliases, twin keys, tabs, odd bytes. A file
is read in one pass with a stack of our own, so neither depth nor width of it can end the program.
"""

from __future__ import annotations

import csv
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import yaml

from hyops.errors import ConfigError, UsageError
from hyops.ports.documents import Allowance, Document, Node, Where

BYTES_MAX = 1024 * 1024
FILES_MAX = 10_000
DEPTH_MAX = 100
SUFFIXES = {".yml", ".yaml", ".csv"}
DOTTED = {".github", ".forgejo", ".gitea"}
ALLOW = re.compile(r"#\s*hyops-lint:(.*)$")
WORDS = re.compile(r"\s*allow\s+(?P<rule>\S+)(?:\s+--\s*(?P<reason>.*))?\s*")
ENV_KEY = re.compile(r"[A-Z][A-Z0-9_]*")


class FileDocuments:
    """`DocumentReader`."""

    def find(self, path: Path) -> list[Path]:
        """See the port. Links are not followed; hidden folders are left out, but for those of CI."""
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        return sorted(_files_below(path)) if path.is_dir() else [path]

    def read(self, path: Path, *, named: bool) -> list[Document]:
        """See the port."""
        source = str(path)
        try:
            data = _bytes_of(path, follow=named)
        except OSError as exc:
            raise ConfigError(f"{source}:1: {exc.strerror}", hint="make the file readable") from exc
        if len(data) > BYTES_MAX:
            line = data.count(b"\n") + 1
            raise ConfigError(f"{source}:{line}: more than {BYTES_MAX} bytes", hint="split the file")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            line = data.count(b"\n", 0, exc.start) + 1
            raise ConfigError(f"{source}:{line}: byte {data[exc.start]:#04x} is not UTF-8") from exc
        if path.suffix.lower() == ".csv":
            return parse_table(text, source=source, named=named)
        return parse_documents(text, source=source)


def _bytes_of(path: Path, *, follow: bool) -> bytes:
    """At most one byte more than is allowed; raises OSError for a pipe, a device and, unless we `follow`, a link."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(BYTES_MAX + 1)


def _files_below(folder: Path) -> Iterator[Path]:
    def told(exc: OSError) -> None:
        raise ConfigError(f"{exc.filename}:1: {exc.strerror}", hint="make the folder readable") from exc

    count = 0
    for base, folders, files in os.walk(folder, onerror=told):
        folders[:] = sorted(
            name for name in folders if (not name.startswith(".") or name in DOTTED) and name != "node_modules"
        )
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not (Path(base) / name).is_symlink():
                count += 1
                if count > FILES_MAX:
                    raise ConfigError(f"{folder}:1: more than {FILES_MAX} files", hint="name the folders that matter")
                yield Path(base) / name


@dataclass
class _Open:
    """A mapping or list that has not ended."""

    where: Where
    line: int
    entries: dict[str, Node] | None
    items: list[Node] = field(default_factory=list)
    key: tuple[str, int] | None = None

    def place(self, line: int) -> tuple[Where, int]:
        """Where the next value stands, and the line to name for it."""
        if self.entries is None:
            return (*self.where, len(self.items)), line
        assert self.key is not None
        return (*self.where, self.key[0]), self.key[1]


def parse_documents(text: str, *, source: str) -> list[Document]:
    """The YAML documents of a text.

    Raises:
        ConfigError: `source:line: what is wrong`.
    """
    roots: list[Node] = []
    spans: list[tuple[int, int]] = []
    try:
        for root in _roots(text, source, spans):
            roots.append(root)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        problem = "a tab cannot indent or start a value" if "'\\t'" in str(exc.problem) else exc.problem
        raise ConfigError(f"{source}:{line}: {problem or exc.context}") from exc
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigError(f"{source}:{line}: character {exc.character!r} is not allowed in YAML") from exc
    except (yaml.YAMLError, ValueError, OverflowError) as exc:
        raise ConfigError(f"{source}:1: not YAML: {exc}") from exc
    allowances = tuple(_allowances(text, spans))
    if not roots:  # a comment in an empty file still allows something, or nothing
        return [Document(source, Node(1, text=""), allowances=allowances)] if allowances else []
    starts = [root.line for root in roots[1:]] + [text.count("\n") + 2]
    found, first = [], 1
    for root, end in zip(roots, starts, strict=True):
        own = tuple(one for one in allowances if first <= one.covers < end)
        found.append(Document(source, root, allowances=own))
        first = end
    return found


def _roots(text: str, source: str, spans: list[tuple[int, int]]) -> Iterator[Node]:
    stack: list[_Open] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{source}:{_line(event)}: anchors and aliases are not allowed: write the value out")
        if isinstance(event, yaml.ScalarEvent) and event.style in ("'", '"'):
            spans.append(_span(event))
        node = _taken(event, stack, source)
        if node is not None and (node := _placed(node, stack)) is not None:
            yield node


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _span(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None
    assert event.end_mark is not None
    return event.start_mark.index, event.end_mark.index


def _taken(event: yaml.Event, stack: list[_Open], source: str) -> Node | None:
    """What an event completes: a scalar, or the mapping or list that ends."""
    line = _line(event)
    top = stack[-1] if stack else None
    wants_key = top is not None and top.entries is not None and top.key is None
    if wants_key and isinstance(event, yaml.CollectionStartEvent):
        raise ConfigError(f"{source}:{line}: a key is not plain text")
    if wants_key and isinstance(event, yaml.ScalarEvent):
        assert top is not None
        assert top.entries is not None
        if event.value in top.entries:
            before = top.entries[event.value].line
            raise ConfigError(f"{source}:{line}: key {event.value!r} stands twice (first in line {before})")
        top.key = (event.value, line)
        return None
    if isinstance(event, yaml.CollectionStartEvent):
        where, at = top.place(line) if top else ((), line)
        if len(stack) >= DEPTH_MAX:
            raise ConfigError(f"{source}:{line}: more than {DEPTH_MAX} levels deep")
        stack.append(_Open(where, at, {} if isinstance(event, yaml.MappingStartEvent) else None))
        return None
    if isinstance(event, yaml.CollectionEndEvent):
        ended = stack.pop()
        if ended.entries is None:
            return Node(ended.line, ended.where, items=tuple(ended.items))
        return Node(ended.line, ended.where, entries=ended.entries)
    if isinstance(event, yaml.ScalarEvent):
        where, at = top.place(line) if top else ((), line)
        block = event.style in ("|", ">")
        return Node(at, where, text=event.value, text_line=line + block, quoted=event.style is not None)
    return None


def _placed(node: Node, stack: list[_Open]) -> Node | None:
    """Put it into what it belongs to; a node that belongs to nothing is the root of a document."""
    if not stack:
        return node
    top = stack[-1]
    if top.entries is None:
        top.items.append(node)
    else:
        assert top.key is not None
        top.entries[top.key[0]], top.key = node, None
    return None


def _allowances(text: str, spans: list[tuple[int, int]]) -> Iterator[Allowance]:
    """Comments that allow something; in quotes (`spans`) a `#` is no comment, but in a block of shell it is one."""
    lines, index = text.split("\n"), 0
    for number, line in enumerate(lines, start=1):
        match = ALLOW.search(line)
        at = index + match.start() if match else -1
        index += len(line) + 1
        if match is None or any(start <= at < end for start, end in spans):
            continue
        words = WORDS.fullmatch(match[1])
        rule, reason = (words["rule"], (words["reason"] or "").strip()) if words else ("", "")
        covers = number
        if not line[: match.start()].strip():  # it stands alone: it speaks about the next line that is no comment
            rest = range(number + 1, len(lines) + 1)
            covers = next((n for n in rest if (s := lines[n - 1].strip()) and not s.startswith("#")), number)
        yield Allowance(number, covers, rule, reason)


def parse_table(text: str, *, source: str, named: bool) -> list[Document]:
    """A map of secrets, `scope,ENV_KEY,REF`, as one document; a table that is none gives no document.

    Raises:
        ConfigError: `source:line: what is wrong`, in a map of secrets or in a table that a person `named`.
    """
    rows: list[tuple[int, tuple[str, ...]]] = []
    fits = named
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            cells = tuple(cell.strip() for cell in next(csv.reader([line], strict=True)))
        except csv.Error as exc:
            if not fits:
                return []
            raise ConfigError(f"{source}:{number}: {exc}") from exc
        if not rows and len(cells) == 3 and cells[1].lower() == "env_key":
            fits = True
            continue
        if len(cells) != 3 or ENV_KEY.fullmatch(cells[1]) is None:
            if not fits:
                return []
            raise ConfigError(f"{source}:{number}: a row is `scope,ENV_KEY,REF`, this one has {len(cells)} cells")
        fits = True
        rows.append((number, cells))
    for (_, one), (number, other) in pairwise(sorted(rows, key=lambda row: (row[1], row[0]))):
        if one == other:
            raise ConfigError(f"{source}:{number}: this row stands twice")
    return [Document(source, rows=tuple(rows), allowances=tuple(_allowances(text, [])))]
