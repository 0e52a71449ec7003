"""The fence agent of a database host over one kept SSH connection: one exec per verb (FEN-2).

The key reaches a forced command there (`hyops agent-call`), so nothing else can be asked for. Host keys are pinned;
no agent, no user configuration, no other authentication than the key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hyops import errors
from hyops.adapters.access_dial import Dialled, dial
from hyops.adapters.ssh_library import asyncssh
from hyops.errors import (
    AgentLostError,
    DeadlineError,
    Effect,
    HostKeyError,
    HyopsError,
    PrerequisiteError,
    RecordError,
    TargetError,
)
from hyops.model import canonical
from hyops.model.fence import DemotionReceipt, FenceReceipt
from hyops.ports.access import SshPlace
from hyops.ports.hostagent import AgentStatus

CONNECT_LIMIT_S = 2.0
REPLY_BYTES_MAX = 262_144
NOT_LET_IN = (asyncssh.PermissionDenied, ValueError)  # a key that is refused, or none: asking again is no use


@dataclass(frozen=True)
class AgentPlace:
    """How to reach one database host: straight, or through `via` or by `command`, and not otherwise."""

    host: str
    address: str
    user: str
    key_file: Path
    known_hosts: Path
    port: int = 22
    via: SshPlace | None = None
    command: tuple[str, ...] = ()


class SshHostAgent:
    """`HostAgent`. Close it at the end of the run."""

    def __init__(self, place: AgentPlace, *, verb_limit_s: float = 60.0) -> None:
        self._place = place
        self._limit_s = verb_limit_s
        self._link: Dialled | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Drop the connection."""
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    async def status(self) -> AgentStatus:
        """Look."""
        return _status(await self._call("status"))

    async def fence(self, *, generation: int, run_id: str) -> AgentStatus:
        """Close the edge, stop the database."""
        return _status(await self._call("fence", generation=generation, run_id=run_id))

    async def prepare(self, *, generation: int, run_id: str) -> AgentStatus:
        """Write down what is meant to come."""
        return _status(await self._call("prepare", generation=generation, run_id=run_id))

    async def demote(self, *, generation: int, run_id: str) -> DemotionReceipt:
        """Hand over."""
        return DemotionReceipt.of(await self._call("demote", generation=generation, run_id=run_id), source="agent")

    async def undo_demote(self, *, generation: int, run_id: str) -> AgentStatus:
        """Serve again."""
        return _status(await self._call("undo_demote", generation=generation, run_id=run_id))

    async def readmit(self, *, generation: int, run_id: str) -> AgentStatus:
        """Serve again under the next generation."""
        return _status(await self._call("readmit", generation=generation, run_id=run_id))

    async def promote(
        self, *, receipt: FenceReceipt, generation: int, run_id: str, demotion: DemotionReceipt | None
    ) -> AgentStatus:
        """Become the primary."""
        more: dict[str, Any] = {"receipt": receipt.body()}
        if demotion is not None:
            more["demotion"] = demotion.body()
        return _status(await self._call("promote", generation=generation, run_id=run_id, **more))

    async def follow(self, *, primary: str, generation: int, run_id: str) -> AgentStatus:
        """Become a standby."""
        return _status(await self._call("follow", primary=primary, generation=generation, run_id=run_id))

    async def _call(self, verb: str, **words: Any) -> dict[str, Any]:
        line = canonical.encode({"verb": verb, **words}) + b"\n"
        host = self._place.host
        try:
            async with asyncio.timeout(self._limit_s):
                done = await (await self._connected()).run("agent-call", input=line, encoding=None, check=False)
        except TimeoutError as exc:
            await self.close()
            raise DeadlineError(f"{host}: no answer to {verb}: {type(exc).__name__}", host=host) from exc
        except (asyncssh.Error, OSError) as exc:
            await self.close()
            raise AgentLostError(f"{host}: no answer to {verb}: {type(exc).__name__}", host=host) from exc
        reply = bytes(done.stdout or b"")  # type: ignore[arg-type]
        if len(reply) > REPLY_BYTES_MAX:
            raise TargetError(f"{host}: the agent's reply has {len(reply)} bytes")
        if not reply.endswith(b"\n"):  # the link, the relay or its host went while it spoke
            await self.close()
            raise AgentLostError(f"{host}: {len(reply)} bytes are half an answer to {verb}", host=host)
        return _result(reply, host, verb)

    async def _connected(self) -> asyncssh.SSHClientConnection:
        async with self._lock:
            if self._link is None or self._link.connection.is_closed():
                await self.close()
                self._link = await self._connect()
            return self._link.connection

    async def _connect(self) -> Dialled:
        place = self._place
        there = SshPlace(
            place.host,
            place.address,
            place.port,
            place.user,
            str(place.key_file),
            str(place.known_hosts),
            pinned_as=place.address,
            command=place.command,
        )
        try:
            return await dial(there, place.via, limit_s=CONNECT_LIMIT_S)
        except HostKeyError as exc:
            raise HostKeyError(exc.message, host=place.host) from exc
        except (TargetError, PrerequisiteError) as exc:
            told = f"{place.host}: no connection: {exc.message}"
            if isinstance(exc.__cause__, NOT_LET_IN) or not isinstance(exc.__cause__, asyncssh.Error | OSError):
                raise TargetError(told, effect=Effect.NONE, host=place.host) from exc
            lost = AgentLostError(told, effect=Effect.NONE, host=place.host)
            lost.reached = False
            raise lost from exc


def _result(reply: bytes, host: str, verb: str) -> dict[str, Any]:
    """The result, or the agent's own error as the same class here."""
    try:
        value = canonical.parse(reply, source=f"{host}: reply to {verb}")
    except RecordError as exc:
        raise DeadlineError(f"{host}: no readable answer to {verb}: {exc.message}", host=host) from exc
    if isinstance(value, dict) and value.get("ok") is True and isinstance(value.get("result"), dict):
        result: dict[str, Any] = value["result"]
        return result
    fault = value.get("error") if isinstance(value, dict) else None
    if not isinstance(fault, dict):
        raise TargetError(f"{host}: the agent answers neither a result nor an error")
    raise _error(fault, host)


def _error(fault: dict[str, Any], host: str) -> HyopsError:
    kind = getattr(errors, str(fault.get("error")), TargetError)
    if not (isinstance(kind, type) and issubclass(kind, HyopsError)):
        kind = TargetError
    effect = fault.get("effect")
    known = Effect(effect) if effect in list(Effect) else Effect.UNKNOWN
    hint = str(fault.get("hint") or "") or None
    return kind(f"{host}: {fault.get('message')}", hint=hint, effect=known, host=host)


def _status(body: dict[str, Any]) -> AgentStatus:
    names = {field.name for field in fields(AgentStatus)}
    try:
        status = AgentStatus(**{name: value for name, value in body.items() if name in names})
    except TypeError as exc:
        raise TargetError(f"the agent's status lacks something: {exc}") from exc
    if status.edge not in ("open", "closed", "unknown") or not isinstance(status.generation, int):
        raise TargetError(f"the agent's status is not one: {body}")
    return status
