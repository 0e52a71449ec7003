"""The part of HTTP/1.1 that the stages speak with etcd: whole answers or an error of the connection."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from hyops.adapters import etcd_posts
from hyops.adapters.etcd_posts import NotHttpError, Posts
from hyops.adapters.http_client import tls_for
from waiting import PATIENCE_S

T = TypeVar("T")
LIMIT_S = PATIENCE_S
ANSWER_MAX = 1000
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'8\r\n{"code":\r\na;x=y\r\n 5, "a":1}\r\n0\r\nGrpc-Trailer-A: b\r\n\r\n'
)


class Member:
    """Answers each request with the next of `answers`, then hangs up where `ends` says so; keeps what it was asked."""

    def __init__(self, answers: Sequence[bytes], *, ends: bool = False) -> None:
        self.answers, self.ends = list(answers), ends
        self.asked: list[bytes] = []
        self.connections = 0
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.asked.append(head + await reader.readexactly(length))
                writer.write(self.answers.pop(0))
                if self.ends:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, IndexError):
            pass
        writer.close()
        self.hung_up.set()


def with_member(member_of: Callable[[], Member], body: Callable[[Member, Posts, str], Awaitable[T]]) -> T:
    """Run against a member on a port of its own."""

    async def run() -> T:
        member, posts = member_of(), Posts(tls_for(["http://"]))
        async with await asyncio.start_server(member.serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v3/kv/txn"
            try:
                return await asyncio.wait_for(body(member, posts, url), LIMIT_S)
            finally:
                await posts.close()

    return asyncio.run(run())


@pytest.mark.req("LOOP-3")
def test_answers_come_whole_over_one_connection() -> None:
    """With a length or in chunks, good or refused: status and body are the member's, and nobody dials twice."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        assert await posts.post(url, b'{"key":"eA=="}', "", ANSWER_MAX) == (200, b"{}")
        assert await posts.post(url, b"{}", "token.1", ANSWER_MAX) == (400, b'{"code": 5, "a":1}')
        assert await posts.post(url, b"{}", "", ANSWER_MAX) == (200, b"{}")
        assert member.connections == 1
        first, second, _ = member.asked
        assert first.startswith(b"POST /v3/kv/txn HTTP/1.1\r\nHost: 127.0.0.1:")
        assert first.endswith(b'{"key":"eA=="}')
        assert b"Authorization" not in first
        assert b"\r\nAuthorization: token.1\r\n" in second

    with_member(lambda: Member([PLAIN, CHUNKED, PLAIN]), body)


@pytest.mark.req("LOOP-3", "SEC-1")
def test_every_request_names_what_it_accepts() -> None:
    """Without that header etcd takes a request that its gateway passes on for one of the gateway's own certificate."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        await posts.post(url, b"{}", "", ANSWER_MAX)
        assert b"\r\nAccept: */*\r\n" in member.asked[0]

    with_member(lambda: Member([PLAIN]), body)


@pytest.mark.req("LOOP-3")
def test_a_kept_connection_that_ended_meanwhile_is_no_error() -> None:
    """A member that was restarted hangs up: the next request is made on a new connection, and answered."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        assert await posts.post(url, b"{}", "", ANSWER_MAX) == (200, b"{}")
        await member.hung_up.wait()
        assert await posts.post(url, b"{}", "", ANSWER_MAX) == (200, b"{}")
        assert member.connections == 2

    with_member(lambda: Member([PLAIN, PLAIN], ends=True), body)


@pytest.mark.req("LOOP-3")
def test_a_connection_that_was_unused_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands between may have forgotten it, and then nobody says so."""
    monkeypatch.setattr(etcd_posts, "KEPT_S", 0.0)

    async def body(member: Member, posts: Posts, url: str) -> None:
        assert [await posts.post(url, b"{}", "", ANSWER_MAX) for _ in range(2)] == [(200, b"{}")] * 2
        assert member.connections == 2

    with_member(lambda: Member([PLAIN, PLAIN]), body)


@pytest.mark.req("LOOP-3")
@pytest.mark.parametrize("large", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n0\r\n\r\n",
])  # fmt: skip
def test_an_answer_that_is_too_long_is_not_read(large: bytes) -> None:
    """There is no body then, and the connection, on which the rest may come, is not used again."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        assert await posts.post(url, b"{}", "", ANSWER_MAX) == (200, None)
        assert await posts.post(url, b"{}", "", ANSWER_MAX) == (200, b"{}")
        assert member.connections == 2

    with_member(lambda: Member([large, PLAIN]), body)


@pytest.mark.req("LOOP-3")
@pytest.mark.parametrize("answer", [
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n{}12345678",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno header\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 40_000 + b"\r\n",
    b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\n\r\n",
])  # fmt: skip
def test_what_is_no_answer_is_an_error_of_the_connection(answer: bytes) -> None:
    """It is said so, and nothing of it becomes an answer."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        with pytest.raises(NotHttpError, match="no answer of HTTP"):
            await posts.post(url, b"{}", "", ANSWER_MAX)

    with_member(lambda: Member([answer]), body)


@pytest.mark.req("LOOP-3")
@pytest.mark.parametrize("whole", [PLAIN, CHUNKED], ids=["length", "chunks"])
def test_an_answer_that_is_cut_off_anywhere_is_no_answer(whole: bytes) -> None:
    """The member dies after each byte of its answer: the error is the connection's, and nothing hangs."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        for cut in range(len(whole)):
            member.answers.append(whole[:cut])
            with pytest.raises(ConnectionResetError):
                await posts.post(url, b"{}", "", ANSWER_MAX)

    with_member(lambda: Member([], ends=True), body)


@pytest.mark.req("LOOP-3", "INV-5")
def test_garbage_is_an_answer_or_an_error_of_the_connection() -> None:
    """Bytes of good answers changed, left out or sent twice: nothing but what the caller translates comes out."""
    rng, found = random.Random(1), {"answer": 0, "error": 0}

    async def body(member: Member, posts: Posts, url: str) -> None:
        for _ in range(400):
            answer = bytearray(rng.choice([PLAIN, CHUNKED]))
            at = rng.randrange(len(answer))
            answer[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            member.answers.append(bytes(answer))
            try:
                status, data = await posts.post(url, b"{}", "", ANSWER_MAX)
            except OSError:
                found["error"] += 1
            else:
                assert 0 <= status <= 999
                assert data is None or len(data) <= ANSWER_MAX
                found["answer"] += 1

    with_member(lambda: Member([], ends=True), body)
    assert min(found.values()) > 20, found


@pytest.mark.req("LOOP-3", "SEC-1")
@pytest.mark.parametrize("token", ["a\r\nX: y", "a\nb", "é", "\x00"])
def test_a_token_that_would_be_more_than_a_header_is_not_sent(token: str) -> None:
    """What a member gave as a token cannot put headers, or another request, on the wire."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        with pytest.raises(NotHttpError, match="token"):
            await posts.post(url, b"{}", token, ANSWER_MAX)
        assert member.asked == []

    with_member(lambda: Member([PLAIN]), body)


@pytest.mark.req("LOOP-3")
def test_a_request_that_is_given_up_leaves_no_connection() -> None:
    """The member says nothing; the caller's limit passes, and the member sees the connection end."""

    async def body(member: Member, posts: Posts, url: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await posts.post(url, b"{}", "", ANSWER_MAX)
        member.answers.append(PLAIN)
        assert await posts.post(url, b"{}", "", ANSWER_MAX) == (200, b"{}")
        assert member.connections == 2
        await member.hung_up.wait()

    with_member(lambda: Member([b""]), body)


@pytest.mark.req("LOOP-3", "FEN-2")
def test_a_dead_address_of_a_name_that_has_another_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member behind a name whose first address swallows what is sent there is reached by the second one."""
    resolved = socket.getaddrinfo

    async def body(member: Member, posts: Posts, url: str) -> None:
        port = int(url.rpartition(":")[2].partition("/")[0])

        def resolve(host: str, *args: Any, **options: Any) -> Any:
            if host != "etcd.test":
                return resolved(host, *args, **options)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("127.0.0.2", "127.0.0.1")]

        with ExitStack() as stack:
            hole = stack.enter_context(socket.socket())
            hole.bind(("127.0.0.2", port))
            hole.listen(0)
            for _ in range(4):  # its backlog is full: it drops whoever comes now
                caller = stack.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(("127.0.0.2", port))
            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            async with asyncio.timeout(LIMIT_S / 4):
                assert await posts.post(f"http://etcd.test:{port}/v3/x", b"{}", "", ANSWER_MAX) == (200, b"{}")

    with_member(lambda: Member([PLAIN]), body)
