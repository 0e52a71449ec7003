"""Terraform's credentials file in a runtime root: 0600 in a folder 0700, replaced whole, other hosts kept (RUN-10)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from hyops.errors import ConfigError, PrerequisiteError
from hyops.model.terraform import FILE, TerraformCredentials

FOLDER = "credentials"
BYTES_MAX = 1024 * 1024


class TfrcFile:
    """`<root>/credentials/credentials.tfrc.json`."""

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER
        self.path = self._folder / FILE

    def read(self) -> TerraformCredentials:
        """What is stored; nothing when there is no file.

        Raises:
            ConfigError: a link, open to others or somebody else's. RecordError: not Terraform's format.
            PrerequisiteError: no access.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return TerraformCredentials()
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise ConfigError(f"{self.path}: a link; tokens are kept in a file of the root") from exc
            raise PrerequisiteError(f"{self.path}: {exc.strerror}") from exc
        with os.fdopen(fd, "rb") as file:
            _ours(self.path, fd)
            data = file.read(BYTES_MAX)
        return TerraformCredentials.read(data, source=str(self.path))

    def store(self, host: str, token: str) -> None:
        """Add or replace one host's token, durably; two writers lose nothing.

        Raises:
            RecordError: not a token. ConfigError, PrerequisiteError: as `read`, or it cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked() as folder:
                changed = self.read().with_token(host, token)
                text = json.dumps(changed.body(), indent=2, sort_keys=True) + "\n"
                self._replace(text.encode(), folder)
        except OSError as exc:
            raise PrerequisiteError(f"{self.path}: {exc.strerror}") from exc

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _ours(self._folder, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)

    def _replace(self, data: bytes, folder: int) -> None:
        partial = self.path.with_name(f".{FILE}.{os.getpid()}.partial")
        try:
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            partial.rename(self.path)
            os.fsync(folder)
        finally:
            partial.unlink(missing_ok=True)


def _ours(path: Path, fd: int) -> None:
    stat = os.fstat(fd)
    if stat.st_uid != os.geteuid() or stat.st_mode & 0o077:
        raise ConfigError(
            f"{path}: open to others, or somebody else's (user {stat.st_uid}, mode {stat.st_mode & 0o777:o})",
            hint=f"chmod go= {path}, and change the token if others could read it",
        )
