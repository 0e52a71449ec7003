"""Grants of access as files: one per grant, replaced whole and durable before the edge is asked for anything."""

from __future__ import annotations

import os
from pathlib import Path

from hyops.errors import PrerequisiteError
from hyops.model import canonical
from hyops.model.access import AccessGrant
from hyops.ownership import as_owner, make_folder

GRANTS_MAX = 1000


class FileGrants:
    """`<grants_dir>/<grant_id>.json`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, grant: AccessGrant) -> None:
        """Write or replace; returns when it is on disk.

        Raises:
            PrerequisiteError: it cannot be written, so nothing may be opened.
        """
        path = self._directory / f"{grant.grant_id}.json"
        fresh = self._directory / f".{grant.grant_id}.{os.getpid()}"
        try:
            make_folder(self._directory, 0o700)
            with as_owner(self._directory), fresh.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(canonical.encode(grant.body()) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            raise PrerequisiteError(f"{path}: {exc.strerror}", hint="free space for the grant's record") from exc

    def drop(self, grant_id: str) -> None:
        """Forget one that is proved gone; a crash before this has it removed, and proved, again."""
        (self._directory / f"{grant_id}.json").unlink(missing_ok=True)

    def all(self) -> list[AccessGrant]:
        """Every grant, oldest first. RecordError names a file that is no grant; it is never skipped."""
        if not self._directory.is_dir():
            return []
        paths = sorted(self._directory.glob("[!.]*.json"))[:GRANTS_MAX]
        found = [AccessGrant.read(path.read_bytes(), source=str(path)) for path in paths]
        return sorted(found, key=lambda grant: grant.opened_at)
