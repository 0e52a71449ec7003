"""The verbs as JSON lines: what travels between `adapters/hostagent_ssh.py`, `fence/call.py` and the agent's socket."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hyops.errors import HyopsError, TargetError, foreign
from hyops.model import canonical
from hyops.model.base import Generation, Name, Part
from hyops.model.fence import DemotionReceipt, FenceReceipt
from hyops.ports.hostagent import HostAgent

LINE_BYTES_MAX = 262_144
CONNECTIONS_MAX = 16
READ_LIMIT_S = 10.0


class AgentRequest(Part):
    """One request line."""

    verb: Literal["status", "fence", "prepare", "demote", "undo_demote", "readmit", "promote", "follow"]
    generation: Generation = 0
    run_id: Name = "none"
    primary: Name | None = None
    receipt: FenceReceipt | None = Field(default=None)
    demotion: DemotionReceipt | None = Field(default=None)


async def answer(line: bytes, agent: HostAgent) -> dict[str, Any]:
    """Do what one line asks; every error becomes a reply."""
    try:
        with foreign():  # the agent must outlive any request
            request = AgentRequest.read(line, source="request")
            return {"ok": True, "result": await _do(request, agent)}
    except HyopsError as exc:
        return {"ok": False, "error": exc.as_json()}


async def _do(request: AgentRequest, agent: HostAgent) -> dict[str, Any]:
    generation, run_id = request.generation, request.run_id
    match request.verb:
        case "status":
            return asdict(await agent.status())
        case "fence":
            return asdict(await agent.fence(generation=generation, run_id=run_id))
        case "prepare":
            return asdict(await agent.prepare(generation=generation, run_id=run_id))
        case "demote":
            return (await agent.demote(generation=generation, run_id=run_id)).body()
        case "undo_demote":
            return asdict(await agent.undo_demote(generation=generation, run_id=run_id))
        case "readmit":
            return asdict(await agent.readmit(generation=generation, run_id=run_id))
        case "promote":
            if request.receipt is None:
                raise TargetError("promote needs a fence receipt", hint="this is how INV-2 is kept")
            return asdict(
                await agent.promote(
                    receipt=request.receipt, generation=generation, run_id=run_id, demotion=request.demotion
                )
            )
        case "follow":
            if request.primary is None:
                raise TargetError("follow needs a primary")
            return asdict(await agent.follow(primary=request.primary, generation=generation, run_id=run_id))


async def listen(path: Path, agent: HostAgent, log: Callable[[str], None], *, group: str | None) -> asyncio.Server:
    """Serve the verbs on a unix socket that only root and `group` may open."""
    slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with slots:
            with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.LimitOverrunError):
                async with asyncio.timeout(READ_LIMIT_S):
                    line = await reader.readuntil(b"\n")
                reply = await answer(line, agent)
                if not reply["ok"]:
                    log(f"refused: {reply['error']['error']}: {reply['error']['message']}")
                writer.write(canonical.encode(reply) + b"\n")
                await writer.drain()
        writer.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".fresh")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    mask = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(one, fresh, limit=LINE_BYTES_MAX)
    finally:
        os.umask(mask)
    if group is not None:
        os.chown(fresh, -1, grp.getgrnam(group).gr_gid)
        fresh.chmod(0o660)
    fresh.rename(path)  # whoever finds it there may use it, and is answered
    return server
