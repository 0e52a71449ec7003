"""What a dispatcher sends to stage, byte by byte, and a runner's root to send it to."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders
from hyops.runner.serve import Server

RUN = "run-20261121T120000Z-0123abcd"
FILES = {"play.yml": b"- hosts: all\n", "overlays/site-b/hosts.yml": b"x" * 5000, "roles/a/empty": b""}


def config(folder: Path, **change: Any) -> RunnerConfig:
    """A runner whose root is `folder`/root."""
    value = {
        "runner_ref": "cloud-runner",
        "site": "cloud",
        "root": str(folder / "root"),
        "signing_key": "/k",
        "trusted_keys": "/k",
        "allowed_signers": "/k",
        "secrets_dir": str(folder / "secrets"),
        "launcher": "fork",
        "job_command": ["/nonexistent/hyops"],
        "disk_free_min_bytes": 1024,
        **change,
    }
    (folder / "runner.json").write_text(json.dumps(value))
    return RunnerConfig.load(folder / "runner.json")


def folders_of(made: RunnerConfig) -> Folders:
    """Its folders, made."""
    folders = Folders(made.root, made.secrets_dir)
    folders.make()
    return folders


def ask(made: RunnerConfig, *frames: bytes) -> list[dict[str, Any]]:
    """Send raw frames over one connection; the answers' headers."""
    sink = io.BytesIO()
    Server(made, io.BytesIO(b"".join(frames)), sink).run()
    answers, source = [], io.BytesIO(sink.getvalue())
    while line := source.readline():
        header, length = wire.header_of(line)
        source.read(length)
        answers.append(header)
    return answers


def hexed(data: bytes) -> str:
    """The name of a file in the archive and in the cache."""
    return hashlib.sha256(data).hexdigest()


def offer(files: Mapping[str, bytes], run_id: str = RUN, **change: list[Any]) -> bytes:
    """The frame that offers them; `change` replaces or adds entries of the manifest."""
    told: dict[str, list[Any]] = {name: [f"sha256:{hexed(data)}", len(data)] for name, data in files.items()}
    return wire.encode(
        {"protocol": PROTOCOL_MAX, "verb": "offer", "run_id": run_id}, canonical.encode({"files": {**told, **change}})
    )


def member(data: bytes, name: str | None = None, **fields: Any) -> bytes:
    """One file of an archive, with any field of its header changed."""
    info = tarfile.TarInfo(hexed(data) if name is None else name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def archive(files: Mapping[str, bytes]) -> bytes:
    """What a good dispatcher ships of them."""
    return b"".join(member(data) for data in dict.fromkeys(files.values())) + bytes(1024)


def ship(data: bytes, run_id: str = RUN, *, end: bytes | None = None, piece: int = 700) -> bytes:
    """The frame and the stream behind it; `end` instead of the end."""
    pieces: Sequence[bytes] = [data[at : at + piece] for at in range(0, len(data), piece)]
    stream = b"".join(wire.chunk(part) for part in pieces) + (wire.chunk(b"") if end is None else end)
    return wire.encode({"protocol": PROTOCOL_MAX, "verb": "ship", "run_id": run_id}) + stream


def held(folders: Folders) -> set[str]:
    """What the cache holds."""
    return {path.name for path in folders.cas.iterdir()}


def left(folders: Folders) -> list[str]:
    """What lies in the staging folder."""
    return sorted(path.name for path in folders.staging.iterdir())
