"""A stage's daemon with its health beside it (LOOP-4)."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyops.ports.records import RecordStore
    from hyops.services.health import Health

FREE_MIN = 1024 * 1024
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
        lambda: _unwritable(own),
    )


def _unwritable(folder: Path) -> str | None:
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder}: cannot be written"
        free = os.statvfs(folder)
    except OSError as exc:
        return f"{folder}: {exc.strerror}"
    if free.f_flag & os.ST_RDONLY:
        return f"{folder}: read-only"
    return None if free.f_bavail * free.f_frsize >= FREE_MIN else f"{folder}: no room"
