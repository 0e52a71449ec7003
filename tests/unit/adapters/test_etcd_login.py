"""A login at a member that is slow is waited for and not asked for again, so that many at once all get theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from hyops.adapters.etcd_gateway import EtcdGateway, EtcdLogin, EtcdRefusedError
from hyops.ports.lease import QuorumLostError
from waiting import PATIENCE_S

LIMIT_S = PATIENCE_S
HASTE = {"stagger_s": 0.005, "attempt_s": 0.02, "limit_s": 0.1}
LOGIN = EtcdLogin("hyops-lab-decision", "wrong or right")


class Member:
    """Answers logins only once `free` is set, with `said`; everything else at once, where a token comes with it."""

    def __init__(self, said: dict[str, object]) -> None:
        self.said, self.free, self.logins, self.answered = said, asyncio.Event(), 0, asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:"))
                await reader.readexactly(length)
                answer: dict[str, object] = (
                    {"header": {}} if b"\r\nauthorization: t" in head.lower() else {"error": "?"}
                )
                if login := b"/v3/auth/authenticate" in head:
                    self.logins += 1
                    await self.free.wait()
                    answer = self.said
                text, status = json.dumps(answer).encode(), b"200 OK" if "error" not in answer else b"400 Bad"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
                await writer.drain()
                if login:
                    self.answered.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def gateway(*members: Member) -> AsyncIterator[EtcdGateway]:
    """In a hurry."""
    servers = [await asyncio.start_server(member.serve, "127.0.0.1", 0) for member in members]
    made = EtcdGateway([f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in servers], login=LOGIN, **HASTE)
    try:
        yield made
    finally:
        await made.close()
        for server in servers:
            server.close()


def run(body: Callable[[], Awaitable[None]]) -> None:
    """In a loop of its own."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await body()

    asyncio.run(limited())


async def until_answered(etcd: EtcdGateway) -> None:
    """As a stage does: again, for as long as there is no answer."""
    while True:
        try:
            await etcd.call("/v3/kv/range", {})
        except QuorumLostError as exc:
            if isinstance(exc, EtcdRefusedError):
                raise
        else:
            return


@pytest.mark.req("LOOP-3")
def test_a_slow_login_is_asked_for_once_and_outlives_the_calls_that_wait_for_it() -> None:
    """Three calls end without an answer; the one login that they share ends, and the next call has its token."""

    async def body() -> None:
        member = Member({"token": "t.1"})
        async with gateway(member) as etcd:
            for _ in range(3):
                with pytest.raises(QuorumLostError):
                    await etcd.call("/v3/kv/range", {})
            assert member.logins <= 1
            member.free.set()
            await until_answered(etcd)
            assert member.logins == 1

    run(body)


@pytest.mark.req("LOOP-3")
def test_a_member_that_never_answers_a_login_holds_nobody_up() -> None:
    """The next member's login counts; each of them was asked once."""

    async def body() -> None:
        frozen, well = Member({}), Member({"token": "t.2"})
        well.free.set()
        async with gateway(frozen, well) as etcd:
            await until_answered(etcd)
            assert well.logins == 1
            assert frozen.logins <= 1

    run(body)


@pytest.mark.req("LOOP-3", "SEC-1")
def test_a_refused_login_is_told_and_the_next_call_tries_again() -> None:
    """A wrong password ends the call with etcd's own words, once somebody waits for them; later it may be right."""

    async def body() -> None:
        member = Member({"error": "authentication failed, invalid user ID or password", "code": 3})
        async with gateway(member) as etcd:
            with pytest.raises(QuorumLostError):
                await etcd.call("/v3/kv/range", {})
            member.free.set()
            await member.answered.wait()  # nobody waited for that refusal
            with pytest.raises(EtcdRefusedError, match="authentication failed"):
                await until_answered(etcd)
            member.said = {"token": "t.3"}
            await until_answered(etcd)

    run(body)
