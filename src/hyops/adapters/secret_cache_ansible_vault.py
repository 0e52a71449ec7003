"""The cache of secrets in one ansible-vault file (SEC-1, SEC-2, ROOT-5).

Writers exclude each other by `flock` on a file beside it, so a dead writer holds nothing. A write goes to a partial
file (encrypted, like everything here that touches the disk), is synced and renamed: a kill at any point leaves the old
document or the new one. A writer that knows no lock (a person with `ansible-vault edit`) is noticed before the rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hyops.adapters.ansible_vault import VaultFormatError, WrongPasswordError, decrypt, encrypt
from hyops.errors import Effect, PrerequisiteError, SecretsError
from hyops.ownership import as_owner, make_folder, maker, open_lock

BYTES_MAX = 16 * 1024 * 1024
LOCK_WAIT_S = 10.0  # a writer holds the lock for two key derivations and a sync; a frozen one must not hang the others
LOCK_RETRY_S = 0.005
RACES_MAX = 5


class AnsibleVaultCache:
    """`SecretCache` over `path`. `password` is asked for once, when it is needed first."""

    def __init__(
        self,
        path: Path,
        password: Callable[[], bytes],
        *,
        lock_wait_s: float = LOCK_WAIT_S,
        at_boundary: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._path, self._ask, self._lock_wait_s, self._at = path, password, lock_wait_s, at_boundary
        self._password: bytes | None = None
        self.source = str(path)

    def read(self) -> bytes:
        """See the port; needs no lock, because a document is replaced as a whole."""
        data, _ = self._load()
        return self._opened(data)

    def update(self, change: Callable[[bytes], bytes]) -> None:
        """See the port."""
        with self._locked():
            for _ in range(RACES_MAX):
                data, seen = self._load()
                before = self._opened(data)
                after = change(before)
                if data is not None and after == before:
                    return
                self._at("changed")
                if self._replaced(encrypt(after, self._key()), seen):
                    return
        raise SecretsError(
            f"{self._path}: somebody else keeps writing it", hint="close the editor that has it", effect=Effect.NONE
        )

    def _load(self) -> tuple[bytes | None, tuple[int, ...]]:
        """The file's bytes, None without one, and what tells this file from the next."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None, ()
        except OSError as exc:
            raise PrerequisiteError(
                f"{self._path}: {exc.strerror}", hint="it must be a file that you may read"
            ) from exc
        with os.fdopen(handle, "rb") as file:
            seen = os.fstat(handle)
            if not stat.S_ISREG(seen.st_mode):
                raise PrerequisiteError(f"{self._path}: not a regular file")
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise self._damaged(f"more than {BYTES_MAX} bytes")
        return data, _identity(seen)

    def _opened(self, data: bytes | None) -> bytes:
        if data is None:
            return b""
        try:
            return decrypt(data, self._key())
        except VaultFormatError as exc:
            raise self._damaged(str(exc)) from exc
        except WrongPasswordError:
            raise SecretsError(
                f"{self._path}: the password does not open it",
                hint="check which password is configured; it was changed, or the file comes from another environment",
                effect=Effect.NONE,
            ) from None

    def _key(self) -> bytes:
        if self._password is None:
            self._password = self._ask()
        return self._password

    def _damaged(self, why: str) -> SecretsError:
        return SecretsError(
            f"{self._path}: {why}",
            hint="it was left as it is; move it away and sync from the authority",
            effect=Effect.NONE,
        )

    def _replaced(self, data: bytes, seen: tuple[int, ...]) -> bool:
        """Whether the file was still the one that was read, and is now this one."""
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            with as_owner(self._path.parent):
                handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, 0o600)
                file.write(data[: len(data) // 2])
                self._at("half-written")
                file.write(data[len(data) // 2 :])
                file.flush()
                os.fsync(handle)
            self._at("written")
            if self._load()[1] != seen:
                partial.unlink()
                return False
            partial.rename(self._path)
            self._at("renamed")
            _sync(self._path.parent)
        except OSError as exc:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise PrerequisiteError(f"{self._path}: {exc.strerror}", hint="nothing was changed; free the disk") from exc
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self._path.parent
        try:
            make_folder(folder, 0o700)
            found = folder.stat()
            if found.st_uid != maker(folder.parent) or found.st_mode & 0o022:
                raise PrerequisiteError(f"{folder}: others can write there", hint="own it, and chmod it 0700")
            lock = open_lock(folder / f".{self._path.name}.lock", 0o600)
        except OSError as exc:
            raise PrerequisiteError(f"{folder}: {exc.strerror}") from exc
        try:
            self._wait_for(lock)
            self._at("locked")
            yield
        finally:
            os.close(lock)

    def _wait_for(self, lock: int) -> None:
        end = time.monotonic() + self._lock_wait_s
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise SecretsError(
                        f"{self._path}: another writer holds it for more than {self._lock_wait_s:g} s",
                        hint="`fuser` on the lock file beside it names the process",
                        effect=Effect.NONE,
                    ) from None
                time.sleep(LOCK_RETRY_S)


def _identity(seen: os.stat_result) -> tuple[int, ...]:
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
