"""The control side of pull mode: pairs dispatchers on a local socket with agents that ask over HTTPS (RUN-11).

It carries bytes and believes none of them: what they mean, the runner's own server and the dispatcher judge, as over
SSH. It keeps nothing on disk. When it ends, its links end and nothing else: jobs go on, agents and dispatchers come
back. A runner has one agent; a new one takes the place of the one before, for good. Every answer is held until an
event, and at most `hold_s`; an agent that has not asked for longer than that and `grace_s` is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hyops.model import pull
from hyops.model.pull import CHANNELS_MAX, CHUNK_MAX
from hyops.services.loop import log
from hyops.services.pull_local import LocalEnd

DISPLACED_MAX = 64


class GoneError(Exception):
    """The channel, or the desk that it was of, is no more."""


class DisplacedError(Exception):
    """Another agent of the same runner has taken over."""


class GapError(Exception):
    """Bytes were left out, or taken back."""


@dataclass
class Channel:
    """One `runner-serve` and its dispatcher. `base` is the place of the first byte that the agent may not have yet."""

    number: int
    local: LocalEnd
    base: int = 0
    waiting: bytearray = field(default_factory=bytearray)
    taken: int = 0
    closed: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    order: asyncio.Lock = field(default_factory=asyncio.Lock)

    def stir(self) -> None:
        """Wake everybody who waits for this channel."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class Agent:
    """One agent process of a runner, for as long as it asks."""

    instance: str
    channels: dict[int, Channel] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None
    turn: int = 0

    def stir(self) -> None:
        """Wake its `wait`."""
        self.changed.set()
        self.changed = asyncio.Event()


class Desk:
    """The state of all links. `wait`, `take` and `give` are the agent's three requests; `join` is a dispatcher's."""

    def __init__(self, runner_refs: frozenset[str], *, hold_s: float, grace_s: float) -> None:
        self.name = secrets.token_hex(8)
        self.runner_refs, self._hold_s, self._grace_s = runner_refs, hold_s, grace_s
        self._agents: dict[str, Agent] = {}
        self._displaced: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._came = asyncio.Event()
        self._last = 0

    async def wait(self, ref: str, instance: str, after: int, desk: str | None) -> bytes:
        """Channels that the agent has not opened yet; empty once the answer was held for its time.

        Raises:
            DisplacedError: a newer agent of this runner is here.
        """
        agent = self._asked(ref, instance, may_come=True)
        seen = after if desk == self.name else 0

        def fresh() -> list[int]:
            return [number for number in sorted(agent.channels) if number > seen]

        with self._asking(ref, agent):
            await self._until(agent, lambda: bool(fresh()) or self._agents.get(ref) is not agent)
        if (ref, instance) in self._displaced:
            raise DisplacedError
        found = fresh()
        return json.dumps({"desk": self.name, "channels": found}).encode()

    async def take(self, ref: str, instance: str, desk: str | None, number: int, at: int) -> tuple[bytes, bool]:
        """Bytes for the server's input from place `at` on, and whether it ends after them; empty when held too long.

        Raises:
            GoneError, DisplacedError, GapError: nothing was changed.
        """
        agent, channel = self._channel(ref, instance, desk, number)
        if not channel.base <= at <= channel.base + len(channel.waiting):
            raise GapError(f"place {at} of {channel.base} to {channel.base + len(channel.waiting)}")
        del channel.waiting[: at - channel.base]  # the agent has what is before the place it asks for
        channel.base = at
        channel.stir()
        with self._asking(ref, agent):
            await self._until(channel, lambda: channel.closed or bool(channel.waiting))
        data = bytes(channel.waiting[:CHUNK_MAX])
        return data, channel.closed and len(data) == len(channel.waiting)

    async def give(
        self, ref: str, instance: str, desk: str | None, number: int, at: int, data: bytes, status: int | None
    ) -> int:
        """Bytes of the server's output that begin at place `at`, and its status when they are the last ones.

        Returns the place of the next byte that is wanted: less than was sent when the dispatcher is slow.

        Raises:
            GoneError, DisplacedError, GapError: nothing was passed on.
        """
        agent, channel = self._channel(ref, instance, desk, number)
        async with channel.order:
            with self._asking(ref, agent):
                room = await channel.local.has_room(self._hold_s)
            if channel.closed:
                raise GoneError
            if at > channel.taken:
                raise GapError(f"place {at} after {channel.taken}")
            if not room:
                return channel.taken
            if new := data[channel.taken - at :]:
                channel.taken += len(new)
                channel.local.send(pull.frame(pull.DATA, new))
            if status is not None and at + len(data) == channel.taken:
                channel.local.send(pull.frame(pull.ENDED, str(status).encode()))
                self._end(ref, channel)
        return channel.taken

    async def join(self, local: LocalEnd) -> None:
        """Serve one dispatcher on the local socket, until either side ends."""
        asked = await local.asked()
        if asked is None:
            return None
        ref, limit_s = asked
        if (agent := await self._present(ref, limit_s)) is None:
            known = "no agent of it is connected" if ref in self.runner_refs else "it is not one of this desk's runners"
            return await local.refuse(f"{ref}: {known}")
        if len(agent.channels) >= CHANNELS_MAX:
            return await local.refuse(f"{ref}: {CHANNELS_MAX} channels are open, the most for one runner")
        self._last += 1
        channel = agent.channels[self._last] = Channel(self._last, local)
        agent.stir()
        try:
            await local.accept()
            while not channel.closed and (data := await local.read(CHUNK_MAX)):
                channel.waiting += data
                channel.stir()
                while len(channel.waiting) >= 2 * CHUNK_MAX and not channel.closed:
                    await channel.changed.wait()
        finally:
            channel.waiting.clear()  # nobody waits for what it would do
            self._end(ref, channel)

    def _end(self, ref: str, channel: Channel) -> None:
        channel.closed = True
        channel.stir()
        channel.local.close()
        if (agent := self._agents.get(ref)) is not None:
            agent.channels.pop(channel.number, None)

    def _asked(self, ref: str, instance: str, *, may_come: bool) -> Agent:
        agent = self._agents.get(ref)
        if agent is None or agent.instance != instance:
            if (ref, instance) in self._displaced:
                raise DisplacedError
            if not may_come:
                raise GoneError
            if agent is not None:
                self._displaced[ref, agent.instance] = None
                while len(self._displaced) > DISPLACED_MAX * max(1, len(self.runner_refs)):
                    self._displaced.popitem(last=False)
                self._lost(ref, agent, "another agent of the same runner has come")
            agent = self._agents[ref] = Agent(instance)
            log("agent came", runner_ref=ref, instance=instance)
            self._came.set()
            self._came = asyncio.Event()
        self._set_timer(ref, agent, self._hold_s + self._grace_s)
        return agent

    def _set_timer(self, ref: str, agent: Agent, after_s: float) -> None:
        if agent.timer is not None:
            agent.timer.cancel()
        agent.timer = asyncio.get_running_loop().call_later(after_s, self._lost, ref, agent, "it no longer asks")

    def _lost(self, ref: str, agent: Agent, why: str) -> None:
        log("agent lost", runner_ref=ref, instance=agent.instance, why=why)
        if agent.timer is not None:
            agent.timer.cancel()
        if self._agents.get(ref) is agent:
            del self._agents[ref]
        for channel in list(agent.channels.values()):
            channel.local.send(pull.frame(pull.LOST, why.encode()))
            self._end(ref, channel)
        agent.stir()

    def _channel(self, ref: str, instance: str, desk: str | None, number: int) -> tuple[Agent, Channel]:
        agent = self._asked(ref, instance, may_come=False)
        channel = agent.channels.get(number)
        if channel is None or desk != self.name:
            raise GoneError
        return agent, channel

    async def _present(self, ref: str, limit_s: float) -> Agent | None:
        if ref not in self.runner_refs:
            return None
        try:
            async with asyncio.timeout(limit_s):
                while ref not in self._agents:
                    await self._came.wait()
        except TimeoutError:
            return None
        return self._agents[ref]

    @contextlib.contextmanager
    def _asking(self, ref: str, agent: Agent) -> Iterator[None]:
        """A request that is being held. When its connection breaks and none came since, the agent has `grace_s`."""
        agent.turn += 1
        mine = agent.turn
        try:
            yield
        except asyncio.CancelledError:
            if agent.turn == mine and self._agents.get(ref) is agent:
                self._set_timer(ref, agent, self._grace_s)
            raise

    async def _until(self, of: Channel | Agent, ready: Callable[[], bool]) -> None:
        """Wait for events of it until it is ready, or the answer was held for its time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._hold_s):
                while not ready():
                    await of.changed.wait()
