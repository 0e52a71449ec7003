"""The fence agent's daemon: the turns and the socket in one process, until SIGTERM.

It answers its socket only after the edge is known to be closed or has failed to be, and leaves the edge closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

from hyops.fence.agent import FenceAgent
from hyops.fence.verbs import FenceVerbs
from hyops.fence.wire import listen
from hyops.model.base import build_all


async def serve(agent: FenceAgent, verbs: FenceVerbs, path: Path, *, group: str | None) -> None:
    """Until SIGTERM or SIGINT."""
    build_all()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    agent.install_edge()
    server = await listen(path, verbs, agent.parts.log, group=group)
    notify("READY=1")
    try:
        await agent.run(stop)
    finally:
        server.close()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def notify(state: str) -> None:
    """Tell systemd; without it, nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.connect("\0" + address[1:] if address.startswith("@") else address)
        link.sendall(state.encode())
