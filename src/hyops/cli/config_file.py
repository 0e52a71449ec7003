"""Files that a command is told to read: what is wrong with one is a refusal that names it, never a usage error (UX-1).

click would say 2 of a folder or an unreadable file before the command begins; the command line was right, though, and
what has to be mended is the file.
"""

from __future__ import annotations

from pathlib import Path

import click

from hyops.errors import ConfigError

TO_READ = click.Path(path_type=Path, readable=False)
"""Looked at by nobody but who reads it."""


def read_file(path: Path, hint: str = "name the configuration with --config") -> bytes:
    """The bytes; ConfigError when it is missing, a folder or unreadable."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint=hint) from exc
