"""An agent's three requests as HTTP says them, and the desk's daemon (RUN-11)."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from hyops.model import pull
from hyops.model.base import build_all
from hyops.ports.pull import PullRequest, PullResponse
from hyops.services.loop import log, notify
from hyops.services.pull_desk import Desk, DisplacedError, GapError, GoneError
from hyops.services.pull_local import LocalEnd

LOCAL_MAX = 1024  # connections on the socket; a dispatch uses up to six


async def answer(desk: Desk, request: PullRequest) -> PullResponse:
    """404 another protocol, 400 nonsense, 409 displaced, 410 the channel is gone, 416 bytes out of place."""
    verb = request.path.removeprefix(pull.PATH)
    if request.method != "POST" or verb not in ("wait", "in", "out"):
        return PullResponse(404, f"this desk answers POST {pull.PATH}wait, in and out".encode())
    try:
        return await _answered(desk, verb, request)
    except ValueError as exc:
        return PullResponse(400, str(exc).encode())
    except DisplacedError:
        return PullResponse(409, b"another agent of this runner has taken over")
    except GoneError:
        return PullResponse(410)
    except GapError as exc:
        return PullResponse(416, str(exc).encode())


async def _answered(desk: Desk, verb: str, request: PullRequest) -> PullResponse:
    told, ref = request.headers, request.runner_ref
    instance, name = told.get(pull.INSTANCE, ""), told.get(pull.DESK)
    if not 8 <= len(instance) <= pull.ID_MAX:
        raise ValueError(f"{pull.INSTANCE}: 8 to {pull.ID_MAX} characters are needed")
    at = pull.number(told.get(pull.AT))
    if verb == "wait":
        return PullResponse(200, await desk.wait(ref, instance, at, name))
    channel = pull.number(told.get(pull.CHANNEL))
    if verb == "in":
        data, last = await desk.take(ref, instance, name, channel, at)
        return PullResponse(200, data, {pull.END: "1"} if last else {})
    status = pull.number(told[pull.END], most=255) if pull.END in told else None
    taken = await desk.give(ref, instance, name, channel, at, request.body, status)
    return PullResponse(200, b"", {pull.AT: str(taken)})


async def listen_locally(desk: Desk, path: Path, group: str | None) -> asyncio.Server:
    """Dispatchers' end: a socket that only its owner and `group` may open."""
    slots = asyncio.Semaphore(LOCAL_MAX)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        local = LocalEnd(reader, writer)
        try:
            async with slots:
                await desk.join(local)
        finally:
            local.close()

    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    mask = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(one, path, limit=pull.LINE_MAX)
    finally:
        os.umask(mask)
    if group is not None:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(0o660)
    return server


async def serve(desk: Desk, listen: Callable[[], Awaitable[asyncio.Server]], path: Path, group: str | None) -> None:
    """Until SIGTERM or SIGINT."""
    build_all()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    agents = await listen()
    local = await listen_locally(desk, path, group)
    notify("READY=1")
    log("desk is open", runners=", ".join(sorted(desk.runner_refs)))
    try:
        await stop.wait()
    finally:
        notify("STOPPING=1")
        for server in (local, agents):
            server.close()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
