"""A site's SSH identity as a folder: two CAs, the register, the revocations and OpenSSH's list made of them (RUN-3).

`register.jsonl` and `revocations.jsonl` only grow, under one lock. A line that a crash left unfinished belongs to a
certificate that nobody got: the next writer marks it as torn. `revoked.krl` is made whole from all revocations by
`ssh-keygen -k` and replaced at once; its version is their number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hyops.adapters.pki_keys import make_key
from hyops.adapters.store_files import sync_directory, write_new
from hyops.errors import HyopsError, PrerequisiteError, RecordError
from hyops.model import canonical
from hyops.model.base import Part
from hyops.model.pki import Issued, Revocation

KEYGEN_LIMIT_S = 10.0
TAIL_BYTES = 256 * 1024
TORN = b"#torn\n"
P = TypeVar("P", bound=Part)


def create(folder: Path, passphrase: bytes | None) -> None:
    """Make the folder with both CAs, whole or not at all, and never over another one.

    Raises:
        PrerequisiteError: something is there, or the disk does not take it. Nothing was made then.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.mkdir(mode=0o700)
        for name in ("host_ca", "user_ca"):
            private, public = make_key(passphrase)
            write_new(temporary / name, private, 0o600)
            write_new(temporary / f"{name}.pub", f"{public} hyops {name}\n".encode(), 0o644)
        for name in ("register.jsonl", "revocations.jsonl", "lock"):  # the lock too: whoever owns the folder owns it
            write_new(temporary / name, b"", 0o600)
        write_new(temporary / "revoked.krl", _krl(temporary, []), 0o644)
        sync_directory(temporary)
        temporary.rename(folder)  # takes the place of nothing, or of an empty folder; refused by every other one
        sync_directory(folder.parent)
    except OSError as exc:
        raise PrerequisiteError(
            f"{folder}: {exc.strerror}",
            hint="CAs are never made over others: name a folder that is empty or not there yet",
        ) from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class PkiFolder:
    """`PkiRegister`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._register, self._revocations = folder / "register.jsonl", folder / "revocations.jsonl"

    def issue(self, make: Callable[[int], Issued]) -> Issued:
        """See the port. Only the end of the register is read: it grows with each connection."""
        with self._locked():
            last = _last(self._register)
            issued = make(1 if last is None else Issued.read(last, source=str(self._register)).serial + 1)
            _append(self._register, issued)
        return issued

    def issued(self) -> list[Issued]:
        """See the port."""
        return _entries(self._register, Issued, lambda one: one.serial)

    def revoke(self, make: Callable[[int], Revocation | None]) -> Revocation | None:
        """See the port."""
        with self._locked():
            known = self.revocations()
            made = make(len(known) + 1)
            if made is not None:
                _append(self._revocations, made)
                known.append(made)
            fresh = self._folder / f".revoked.{os.getpid()}"
            with _translated(fresh):
                fresh.unlink(missing_ok=True)
                write_new(fresh, _krl(self._folder, known), 0o644)
                fresh.replace(self._folder / "revoked.krl")
                sync_directory(self._folder)
        return made

    def revocations(self) -> list[Revocation]:
        """See the port."""
        return _entries(self._revocations, Revocation, lambda one: one.number)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with _translated(self._folder):
            lock = os.open(self._folder / "lock", flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _krl(folder: Path, revocations: list[Revocation]) -> bytes:
    """OpenSSH's revocation list of all of these."""
    version = ["-z", str(len(revocations))]
    with tempfile.TemporaryDirectory(prefix=".krl-", dir=folder) as place:
        made, wanted = Path(place) / "krl", Path(place) / "wanted"
        wanted.write_text("".join(f"key: {one.key}\n" for one in revocations if one.key))
        _keygen(["-k", "-f", str(made), *version, str(wanted)])
        for ca in ("host", "user"):
            serials = [one.serial for one in revocations if one.ca == ca]
            if serials:
                wanted.write_text("".join(f"serial: {serial}\n" for serial in serials))
                public = str(folder / f"{ca}_ca.pub")
                _keygen(["-k", "-u", "-f", str(made), *version, "-s", public, str(wanted)])
        return made.read_bytes()


def is_revoked(krl: Path, line: bytes) -> bool:
    """Whether OpenSSH finds a key or certificate (one line) in its list; a list that cannot be read revokes all.

    Raises:
        PrerequisiteError: no ssh-keygen here, or it gave no answer, or was killed.
    """
    with tempfile.NamedTemporaryFile(prefix="hyops-krl-", suffix=".pub") as shown:
        shown.write(line)
        shown.flush()
        return _run(["ssh-keygen", "-Q", "-f", str(krl.absolute()), shown.name]).returncode != 0


def _keygen(words: list[str]) -> None:
    done = _run(["ssh-keygen", "-q", *words])
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise PrerequisiteError(f"ssh-keygen -k: {said[-300:] or done.returncode}")


def _run(words: list[str]) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(words, capture_output=True, timeout=KEYGEN_LIMIT_S, env=environment, check=False)
    except FileNotFoundError as exc:
        raise PrerequisiteError("ssh-keygen is not installed", hint="install the OpenSSH client") from exc
    except subprocess.TimeoutExpired as exc:
        raise PrerequisiteError(f"ssh-keygen gave no answer within {KEYGEN_LIMIT_S:g} s") from exc
    if done.returncode < 0:  # whoever is killed has said nothing, least of all that a key is revoked
        killed = subprocess.CalledProcessError(done.returncode, words)
        raise PrerequisiteError(f"ssh-keygen was ended by signal {-done.returncode}") from killed
    return done


def _append(path: Path, made: Part) -> None:
    with _translated(path):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = (TORN if torn else b"") + canonical.encode(made.body()) + b"\n"
            if os.write(handle, data) != len(data):
                raise OSError(28, "No space left on device")
            os.fsync(handle)


def _complete(data: bytes) -> list[bytes]:
    """The lines that were written to their end."""
    return [line for line in data.split(b"\n")[:-1] if line and not line.endswith(TORN.strip())]


def _last(path: Path) -> bytes | None:
    with _translated(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        lines = _complete(file.read(TAIL_BYTES))
    if not lines and size > 0:
        with _translated(path):
            lines = _complete(path.read_bytes())
    return lines[-1] if lines else None


def _entries(path: Path, kind: type[P], number: Callable[[P], int]) -> list[P]:
    """Every entry; numbers that do not go up by one say that something was taken out or put in."""
    with _translated(path):
        lines = _complete(path.read_bytes())
    found = [kind.read(line, source=f"{path}, entry {place}") for place, line in enumerate(lines, 1)]
    for place, one in enumerate(found, 1):
        if number(one) != place:
            hint = "put the file back from its last copy; until then no certificate is signed and nothing revoked"
            raise RecordError(f"{path}, entry {place}: has number {number(one)}", hint=hint)
    return found


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except HyopsError:
        raise
    except OSError as exc:
        hint = "make the CAs with `hyops pki init`, or name their folder with --pki"
        raise PrerequisiteError(f"{path}: {exc.strerror}", hint=hint) from exc
