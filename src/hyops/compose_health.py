"""A stage's daemon with its health beside it (LOOP-4)."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyops.ports.records import RecordStore
    from hyops.services.config import Homes
    from hyops.services.health import Health

FREE_MIN = 1024 * 1024
INODES_MIN = 64  # a record takes two for a moment, and a stage makes several in one pass
WRITTEN = {
    "decision": ("records", "inputs", "standby", "refusals"),
    "dispatch": ("requests", "plans", "standby", "refusals"),
    "approval": ("executions", "refusals"),
    "execution": ("attempts", "outcomes", "taken", "starts", "evidence", "refusals"),
}
"""What a stage itself writes below its `state`; approvals and holds are people's."""
RWX = os.R_OK | os.W_OK | os.X_OK
QUEUED = ("dispatch", "approval", "execution")
"""The stages that answer records of another one."""


async def beside(stage: str, config_file: Path, daemon: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the daemon; where its configuration says `health`, answer on loopback meanwhile.

    A port that is somebody's is logged and no reason to stand still: the stage matters more than who looks at it.
    """
    import asyncio

    from hyops.services.loop import log

    server: asyncio.Server | None = None
    port, health = _health(stage, config_file)
    if port is not None and health is not None:
        from hyops.adapters.health_http import listen

        try:
            server = await listen(port, health.answer)
        except OSError as exc:
            log("health is not served", stage=stage, port=port, error=exc.strerror or exc)
    try:
        await daemon()
    finally:
        if server is not None:
            server.close()


def _health(stage: str, config_file: Path) -> tuple[int | None, Health | None]:
    """Nothing where the configuration asks for none: then it is read by the daemon alone."""
    from hyops.compose_check import config_of

    data = config_file.read_bytes()
    if b'"health"' not in data:
        return None, None
    config, mode = config_of(stage, data, str(config_file))
    return (None, None) if config.health is None else (config.health.port, health_of(stage, mode, config))


def health_of(stage: str, mode: str, config: Any) -> Health:
    """What is looked at: the stage's own folder, its inbox with the answers to it, and its marks."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.compose import record_store
    from hyops.services.health import Health, reached
    from hyops.services.pulse import PULSE
    from hyops.services.queues import queue_of
    from hyops.services.seen import Seen

    homes = config.homes
    own = Path(getattr(homes, stage)) / "state"
    kept_there = getattr(getattr(homes, stage), "store", None) is not None  # else in files, below `own`
    folders = _written(stage, own, kept_there)

    def store(home: str, kind: str) -> RecordStore:
        return record_store(getattr(homes, home), kind)

    return Health(
        stage,
        mode,
        PULSE,
        SystemClock().now,
        queue_of(stage, store) if stage in QUEUED else None,
        queue_of("runners", store) if stage == "execution" else None,
        store(stage, "refusals") if stage in QUEUED else None,
        Seen(store("execution", "outcomes"), reached) if stage in ("decision", "execution") else None,
        lambda: next((why for folder in folders if (why := _unwritable(folder, own)) is not None), None),
    )


def unwritable(homes: Homes, kept_there: bool) -> list[str]:
    """What the stages of this host cannot write, one thing of each, as far as who asks can see into their folders.

    A stage is the owner of its own `state`. What only writing shows (a broken disk) is known to the stage itself.

    Args:
        kept_there: the records lie in etcd.
    """
    found = []
    for stage in WRITTEN:
        own = Path(getattr(homes, stage)) / "state"
        try:
            owner = own.stat()
        except OSError:
            continue  # not a stage of this host, or nobody else's business
        for folder in _written(stage, own, kept_there):
            if (why := _unwritable(folder, own, owner)) is not None:
                found.append(f"{stage}: {why}")
                break
    return found


def _written(stage: str, own: Path, kept_there: bool) -> list[Path]:
    return [own] if kept_there else [own, *(own / kind for kind in WRITTEN[stage])]


def _unwritable(folder: Path, own: Path, user: os.stat_result | None = None) -> str | None:
    """Why nothing can be written there; a folder that is not there yet is made with its first record.

    By this process; or by who owns what `user` is of, as far as this process may look.
    """
    if folder != own and not os.path.lexists(folder):
        return None
    try:
        free = os.statvfs(folder)
        if free.f_flag & os.ST_RDONLY:
            return f"{folder}: read-only"
        for path, needed in ((folder, RWX), (folder / ".slots", RWX), (folder / ".lock", os.R_OK | os.W_OK)):
            if path != folder and not path.exists():
                continue
            if not (os.access(path, needed, effective_ids=True) if user is None else _may(path, needed, user)):
                return f"{path}: {_refusal(path, os.geteuid() if user is None else user.st_uid)}"
    except OSError as exc:
        if user is not None and isinstance(exc, PermissionError):
            return None
        return f"{exc.filename or folder}: {exc.strerror}"
    if free.f_bavail * free.f_frsize < FREE_MIN:
        return f"{folder}: no room"
    few = free.f_files and free.f_favail < INODES_MIN  # no total: a file system that does not count them
    return f"{folder}: no room for more files ({free.f_favail} inodes left)" if few else None


def _may(path: Path, needed: int, user: os.stat_result) -> bool:
    found = path.stat()
    shift = 6 if found.st_uid == user.st_uid else 3 if found.st_gid == user.st_gid else 0
    return user.st_uid == 0 or (found.st_mode >> shift) & needed == needed


def _refusal(path: Path, user: int) -> str:
    found = path.stat()
    whose = f"it is {found.st_uid}:{found.st_gid}'s, mode {found.st_mode & 0o7777:o}"
    return f"cannot be written by user {user}: {whose}"
