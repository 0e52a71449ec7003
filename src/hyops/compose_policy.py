"""What `hyops policy` works on: files of people, with the line of each key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hyops.control.proof.rules import Where
    from hyops.model.policy import ServicePolicy
    from hyops.model.routes import Routes
    from hyops.ports.documents import Node


@dataclass(frozen=True)
class Lines:
    """Where the keys of a file stand."""

    path: str
    root: Node | None

    def of(self, where: Where) -> int:
        """The line of a key, or of the nearest key above it that is there."""
        node, line = self.root, 1
        for part in where:
            below = None
            if node is not None and isinstance(part, str):
                below = node.get(part)
            elif node is not None and node.items is not None and isinstance(part, int) and part < len(node.items):
                below = node.items[part]
            if below is None:
                return line
            node, line = below, below.line
        return line


def policy_file(path: Path) -> tuple[ServicePolicy, Lines]:
    """One service's policy.

    Raises:
        ConfigError: it cannot be read; or one line per fault, `file:line: key: what is wrong`.
    """
    from hyops.adapters.yaml_files import parse_yaml
    from hyops.model.policy import ServicePolicy

    data = _bytes(path, "name a policy's file")
    return parse_yaml(data, ServicePolicy, source=str(path)), _lines(path, data)


def routes_file(path: Path) -> tuple[Routes, Lines]:
    """The dispatcher's routes; raises as `policy_file`."""
    from hyops.adapters.yaml_files import parse_yaml
    from hyops.model.routes import Routes

    data = _bytes(path, "name the routes' file with --routes")
    return parse_yaml(data, Routes, source=str(path)), _lines(path, data)


def _bytes(path: Path, hint: str) -> bytes:
    from hyops.errors import ConfigError

    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint=hint) from exc


def _lines(path: Path, data: bytes) -> Lines:
    """The second reading of bytes that were a good document in the first."""
    from hyops.adapters.documents_files import parse_documents

    documents = parse_documents(data.decode("utf-8", "replace"), source=str(path))
    return Lines(str(path), documents[0].root if documents else None)
