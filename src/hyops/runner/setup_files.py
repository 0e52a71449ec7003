"""What root reads and writes on a host that becomes a runner: whole files, and nothing that a link leads to (RUN-2).

Standard library only: it is sent there beside `hyops.runner.setup`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

TOOL_LIMIT_S = 300


class Refusal(Exception):
    """Nothing was changed yet, or nothing more will be: its two arguments are what is wrong, and what to do."""


def ran(argv: list[str], limit_s: float | None = None, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """A command that ended, well or not; one that does not end within `limit_s` is killed and is a Refusal."""
    limit_s = TOOL_LIMIT_S if limit_s is None else limit_s
    try:
        return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit_s, check=False, **how)
    except subprocess.TimeoutExpired:
        raise Refusal(
            f"{' '.join([os.path.basename(argv[0]), *argv[1:3]])[:200]} did not end within {limit_s:g} s",
            "see what holds it up on that host, then run this again",
        ) from None


def executors(path: Path) -> set[str] | None:
    """Whose orders a `trusted_keys.json` takes; None when there is none."""
    try:
        keys = json.loads(read(path))["keys"]
        return {str(key["public"]) for key in keys if "execution" in key["roles"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def standing(config: Path) -> tuple[str, Path] | None:
    """The runner that a `runner.json` is for, and where it keeps whose orders it takes; None when there is none."""
    try:
        value = json.loads(read(config))
    except FileNotFoundError:
        return None
    runner_ref, trusted_keys = value["runner_ref"], Path(value["trusted_keys"])
    if not isinstance(runner_ref, str) or not trusted_keys.is_absolute():
        raise ValueError("no configuration of a runner")
    return runner_ref, trusted_keys


def read(path: Path) -> bytes:
    """A plain file; a link is not followed, and a pipe is not waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("no plain file")
        return file.read()


def lets_in(line: bytes, key: bytes) -> bool:
    """Whether a line of an `authorized_keys` is about this key: of two such lines, sshd goes by the first."""
    if line.lstrip(b" \t").startswith(b"#"):
        return False
    for word in line.replace(b"\t", b" ").split(b" "):
        with contextlib.suppress(ValueError):
            if base64.b64decode(word.translate(None, b"\r\v\f"), validate=True) == key:
                return True
    return False


def key_files(asked: str, user: str, home: str) -> list[Path]:
    """Where sshd looks for a user's keys, by what `sshd -T` answered; nowhere when it takes certificates alone."""
    said = (line.split()[1:] for line in asked.splitlines() if line.startswith("authorizedkeysfile "))
    told = [place for places in said for place in places if place != "none"]
    return [Path(home, place.replace("%u", user).replace("%h", home).replace("%%", "%")) for place in told]


def lines(path: Path) -> list[bytes]:
    """Of a text file that may not be there."""
    text = path.read_bytes().rstrip(b"\n") if path.exists() else b""
    return text.split(b"\n") if text else []


def brief(line: bytes) -> str:
    """A line of an `authorized_keys` as it is told: its key and whose it is, without what it may do."""
    return b" ".join(line.split()[-2:]).decode(errors="replace")[-200:]


def in_use(folder: Path) -> set[str]:
    """The releases in `folder` of which a living process has code mapped: a job, which may load more of it yet."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            for line in maps.read_bytes().splitlines():
                _, there, below = line.partition(f" {folder}/".encode())
                if there:
                    found.add(below.split(b"/")[0].decode(errors="replace"))
    return found


def give(path: Path, kind: Any, mode: int, ids: tuple[int, int]) -> None:
    """Owner and mode of what stands there; of nothing that a link leads to, whenever it was put there."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not kind(os.fstat(fd).st_mode):
            raise Refusal(f"{path} became another thing meanwhile", "see who put it there")
        os.fchown(fd, *ids)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes, mode: int, ids: tuple[int, int]) -> None:
    """Whole or not at all; nobody reads it before it has its owner and mode."""
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchown(fd, *ids)
        os.fchmod(fd, mode)
        file.flush()
        os.fsync(fd)
    os.replace(partial, path)


def unpack(source: BinaryIO, release: dict[str, Any], folder: Path) -> None:
    """Files and nothing else, below `folder`; all of them, or it is refused."""
    data = source.read(int(release["bytes"]))
    if hashlib.sha256(data).hexdigest() != release["sha256"]:
        raise Refusal(f"the release came torn: {len(data)} of {release['bytes']} bytes", "run the same command again")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            parts = Path(member.name).parts
            body = archive.extractfile(member) if member.isreg() else None
            if body is None or ".." in parts or member.name.startswith("/"):
                raise Refusal(f"the release holds {member.name!r}", "this is a bug in hyops: report it")
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body.read())  # 0644 by the umask
