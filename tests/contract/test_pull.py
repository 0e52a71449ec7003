"""What pull mode adds to a link: certificates of both sides, nothing twice, limits, restarts (RUN-3, RUN-5, RUN-11)."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.pull_http import PullServer
from hyops.adapters.pull_identity import RunnerCertificates, StrangerError, server_context
from hyops.adapters.transport_pull import PullRunnerTransport
from hyops.errors import ConfigError, PrerequisiteError, RunnerUnreachableError
from hyops.model import pull, wire
from hyops.model.protocol import PROTOCOL_MAX, PROTOCOL_MIN
from hyops.ports.pull import PullRequest, PullResponse
from hyops.runner.pull_config import PullConfig
from hyops.runner.pull_http import Asking, UnreachableError
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import VERIFIER
from loopback import free_ports, wait_for
from pull_peer import SERVER, Authority, PullPeer

INSTANCE = "a" * 32
REFS = frozenset({"cloud-runner", "azure-runner", "idle-runner"})
ASKED: list[Asking] = []


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, 240.0))


def asking(peer: PullPeer, certificate: str = "runner", instance: str = INSTANCE, **change: Any) -> Asking:
    """An agent's own client, by hand."""
    pki = peer.ca.folder
    given = {"certificate": str(pki / f"{certificate}.crt"), "key": str(pki / f"{certificate}.key"), **change}
    made = Asking(PullConfig.load(peer.configured(**given)), instance)
    ASKED.append(made)
    return made


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No connection of a test is left open."""
    yield
    while ASKED:
        ASKED.pop().close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PullPeer]:
    """A desk without an agent."""
    made = PullPeer(tmp_path_factory.mktemp("desk"), hold_s=0.2)
    try:
        made.start_desk()
        yield made
    finally:
        made.end()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[PullPeer]:
    """Desk and agent of this test."""
    made = PullPeer(tmp_path / "peer")
    try:
        made.start()
        yield made
    finally:
        made.end()


# who may ask


@pytest.mark.req("RUN-3", "RUN-11")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda ca: ca.issue("x", "cloud-runner", days=(-3, -1)), "without a word"),
        (lambda ca: ca.issue("x", "cloud-runner", days=(1, 3)), "without a word"),
        (lambda ca: ca.issue("x", "cloud-runner", SERVER), "without a word"),
        (lambda ca: ca.issue("x", "stranger"), "403 the certificate is for stranger"),
        (lambda ca: ca.issue("x", ["cloud-runner", "azure-runner"]), "403 the certificate is for cloud"),
        (lambda ca: ca.issue("x", []), "403 the certificate is for nobody"),
        (lambda ca: ca.revoke(ca.issue("x", "cloud-runner")), "403 .* is revoked"),
    ],
    ids=["expired", "not-yet", "server-usage", "stranger", "two-names", "no-name", "revoked"],
)
def test_a_certificate_that_stands_for_no_runner_is_refused(desk: PullPeer, make: Any, said: str) -> None:
    """Refused by name or by TLS; the one that is good is served before and after."""
    assert asking(desk).ask("wait", "", at=0).status == 200
    make(desk.ca)
    try:
        reply = asking(desk, "x").ask("wait", "", at=0)
        told = f"{reply.status} {reply.text()}"
    except UnreachableError as exc:
        told = str(exc)
    assert re.search(said, told), told
    assert asking(desk).ask("wait", "", at=0).status == 200


@pytest.mark.req("RUN-3", "RUN-11")
def test_a_certificate_of_another_ca_or_none_is_refused(desk: PullPeer, tmp_path: Path) -> None:
    """The same name, made by somebody else; and nobody at all."""
    other = Authority(tmp_path / "other")
    other.issue("runner", "cloud-runner")
    for end in ("crt", "key"):
        (desk.ca.folder / f"foreign.{end}").write_bytes((other.folder / f"runner.{end}").read_bytes())
        (desk.ca.folder / f"foreign.{end}").chmod(0o600)
    with pytest.raises(UnreachableError, match="without a word"):
        asking(desk, "foreign").ask("wait", "", at=0)

    context = ssl.create_default_context(cafile=desk.ca.file)
    link = http.client.HTTPSConnection("127.0.0.1", desk.port, context=context, timeout=5)

    def ask() -> None:
        link.request("POST", "/pull/1/wait", b"", {pull.INSTANCE: INSTANCE, pull.AT: "0"})
        link.getresponse()

    with contextlib.closing(link), pytest.raises(OSError, match=r"(?i)certificate.required|reset|closed"):
        ask()


@pytest.mark.req("RUN-3")
def test_a_certificate_revoked_on_a_living_connection_is_refused_at_the_next_request(desk: PullPeer) -> None:
    """No new handshake is needed: the list is read again when its file changes."""
    serial = desk.ca.issue("short", "azure-runner")
    asker = asking(desk, "short", "b" * 32)
    assert asker.ask("wait", "", at=0).status == 200
    assert len(asker._kept) == 1
    desk.ca.revoke(serial)
    assert asker.ask("wait", "", at=0).status == 403


@pytest.mark.req("RUN-3")
def test_time_and_list_count_at_every_look(tmp_path: Path) -> None:
    """Valid, then over; a list that is foreign, torn or gone changes nothing, one that is late still refuses."""
    from cryptography import x509

    ca, said, clock = Authority(tmp_path / "ca"), list[str](), FakeClock(SystemClock().now())
    serial = ca.issue("runner", "cloud-runner")
    revoked = ca.issue("gone", "cloud-runner")
    ca.revoke(revoked, due_days=-1)
    one, bad = (x509.load_pem_x509_certificate((ca.folder / f"{n}.crt").read_bytes()) for n in ("runner", "gone"))
    crl = ca.folder / "crl.pem"
    judge = RunnerCertificates(ca.file, crl, REFS, clock, said.append)
    assert judge.who(one) == "cloud-runner"
    assert "was to be renewed" in said[0]

    other = Authority(tmp_path / "other")
    for change in (
        lambda: crl.write_bytes((other.folder / "crl.pem").read_bytes()),
        lambda: crl.write_bytes(b"torn"),
        crl.unlink,
    ):
        change()
        assert judge.who(one) == "cloud-runner"
        with pytest.raises(StrangerError, match="revoked"):
            judge.who(bad)
        assert "still counts" in said[-1]
    ca.revoke(serial)
    with pytest.raises(StrangerError, match="revoked"):
        judge.who(one)
    clock.advance(2 * 86400.0)
    with pytest.raises(StrangerError, match="valid until"):
        judge.who(one)


@pytest.mark.req("RUN-3")
@pytest.mark.parametrize("fault", ["no-crl", "foreign-crl", "no-ca", "torn-ca", "no-key"])
def test_a_desk_without_its_files_does_not_open(tmp_path: Path, fault: str) -> None:
    """Refused at start, naming the file: it never serves with less than all checks."""
    ca = Authority(tmp_path / "ca")
    ca.issue("desk", "desk", SERVER)
    crl, key = ca.folder / "crl.pem", ca.folder / "desk.key"
    {
        "no-crl": crl.unlink,
        "foreign-crl": lambda: crl.write_bytes((Authority(tmp_path / "other").folder / "crl.pem").read_bytes()),
        "no-ca": ca.file.unlink,
        "torn-ca": lambda: ca.file.write_bytes(b"x"),
        "no-key": key.unlink,
    }[fault]()

    def opened() -> None:
        RunnerCertificates(ca.file, crl, REFS, SystemClock(), print)
        server_context(ca.file, ca.folder / "desk.crt", key)

    with pytest.raises(ConfigError, match=r"crl\.pem|ca\.crt|desk\.key"):
        opened()


# who answers


@contextlib.asynccontextmanager
async def posing(peer: PullPeer, certificate: Path, key: Path, seen: list[str]) -> AsyncIterator[int]:
    """A desk with another certificate, on a port of its own; it notes what it is asked."""

    async def answer(request: PullRequest) -> PullResponse:
        seen.append(request.path)
        return PullResponse(410)

    ca, (port,) = peer.ca, free_ports(1)
    judge = RunnerCertificates(ca.file, ca.folder / "crl.pem", REFS, SystemClock(), seen.append)
    server = PullServer(judge, answer, body_max=pull.CHUNK_MAX, answer_limit_s=5.0, say=seen.append)
    listening = await server.listen("127.0.0.1", port, server_context(ca.file, certificate, key))
    try:
        yield port
    finally:
        listening.close()


@pytest.mark.req("RUN-3", "RUN-11")
@pytest.mark.fault(16)
@pytest.mark.parametrize("who", ["other-ca", "runner", "wrong-name", "expired", "right"])
def test_an_agent_says_nothing_to_a_desk_that_its_ca_does_not_vouch_for(
    desk: PullPeer, tmp_path: Path, who: str
) -> None:
    """Another CA, a runner's own certificate, another name, an old one: no request leaves; the right one is asked."""
    pki, other = desk.ca, Authority(tmp_path / "other")
    pki.issue("old", "desk", SERVER, days=(-3, -1))
    files = {
        "other-ca": (other, "desk"),
        "runner": (pki, "runner"),
        "wrong-name": (pki, "desk"),
        "expired": (pki, "old"),
        "right": (pki, "desk"),
    }
    other.issue("desk", "desk", SERVER)
    ca, name = files[who]
    seen: list[str] = []

    async def body() -> None:
        async with posing(desk, ca.folder / f"{name}.crt", ca.folder / f"{name}.key", seen) as port:
            host = "localhost" if who == "wrong-name" else "127.0.0.1"
            asker = asking(desk, host=host, port=port)
            if who == "right":
                assert (await asyncio.to_thread(asker.ask, "wait", "", at=0)).status == 410
                return
            with pytest.raises(UnreachableError, match=r"(?i)certificate|mismatch|verify"):
                await asyncio.to_thread(asker.ask, "wait", "", at=0)

    run(body())
    assert seen == (["/pull/1/wait"] if who == "right" else [])


# nothing twice


@contextlib.asynccontextmanager
async def dispatcher(desk: PullPeer) -> AsyncIterator[tuple[Asking, int, str, Any]]:
    """An agent by hand with one open channel: its client, the channel, the desk's name, the dispatcher's pipe."""
    asker = asking(desk)
    first = await asyncio.to_thread(asker.ask, "wait", "", at=0)
    name, before = pull.opened(first.body)
    transport = PullRunnerTransport(desk.socket, REFS, VERIFIER)
    async with transport.connect("cloud-runner") as session:
        pipe = await session._link.open()
        reply = await asyncio.to_thread(asker.ask, "wait", name, at=max(before, default=0))
        yield asker, pull.opened(reply.body)[1][-1], name, pipe


@pytest.mark.req("RUN-11", "INV-4")
@pytest.mark.fault(14)
def test_what_is_sent_twice_arrives_once(desk: PullPeer) -> None:
    """Requests repeated as after a lost answer, overlapping, or with a gap: each byte once and in order, both ways."""

    async def body() -> None:
        async with dispatcher(desk) as (asker, channel, name, pipe):

            async def out(at: int, data: bytes) -> tuple[int, str | None]:
                reply = await asyncio.to_thread(asker.ask, "out", name, at=at, channel=channel, body=data)
                return reply.status, reply.headers.get(pull.AT)

            async def heard(at: int) -> tuple[int, bytes]:
                reply = await asyncio.to_thread(asker.ask, "in", name, at=at, channel=channel)
                return reply.status, reply.body

            assert [await out(0, b"ab\n"), await out(0, b"ab\n"), await out(1, b"b\ncd\n")] == [
                (200, "3"),
                (200, "3"),
                (200, "6"),
            ]
            assert (await out(7, b"x"))[0] == 416
            assert [await pipe.read_line(), await pipe.read_line()] == [b"ab\n", b"cd\n"]
            await pipe.write(b"start")
            assert [await heard(0), await heard(0)] == [(200, b"start")] * 2
            assert await heard(5) == (200, b"")
            assert [(await heard(at))[0] for at in (0, 4, 6)] == [416] * 3

    run(body())


@pytest.mark.req("RUN-11", "INV-8")
def test_a_channel_is_its_runners_and_its_desks_alone(desk: PullPeer) -> None:
    """Another runner's certificate, another agent, another desk's name, another number: gone, and nothing arrives."""
    desk.ca.issue("azure", "azure-runner")

    async def body() -> None:
        async with dispatcher(desk) as (asker, channel, name, pipe):
            stranger = asking(desk, "azure", "d" * 32)
            assert (await asyncio.to_thread(stranger.ask, "wait", "", at=0)).status == 200
            for client, told, number in (
                (stranger, name, channel),
                (asking(desk, instance="e" * 32), name, channel),
                (asker, "another", channel),
                (asker, name, channel + 1),
            ):
                for verb in ("in", "out"):
                    reply = await asyncio.to_thread(client.ask, verb, told, at=0, channel=number, body=b"evil\n")
                    assert reply.status == 410
            await asyncio.to_thread(asker.ask, "out", name, at=0, channel=channel, body=b"good\n")
            assert await pipe.read_line() == b"good\n"

    run(body())


@pytest.mark.req("RUN-11")
def test_a_new_agent_takes_over_and_the_old_one_ends_with_12(peer: PullPeer) -> None:
    """Its links are lost, its place is gone for good: it says so, and never takes it back."""
    transport = PullRunnerTransport(peer.socket, REFS, VERIFIER)
    peer.says("hang status")

    async def body() -> None:
        async with transport.connect("cloud-runner") as link:
            await link.hello()
            held = asyncio.create_task(link.status("run-x"))
            await asyncio.to_thread(wait_for, (peer.folder / "hanging").exists, "the call")
            newer = asking(peer, instance="n" * 32)
            assert (await asyncio.to_thread(newer.ask, "wait", "", at=0)).status == 200
            with pytest.raises(RunnerUnreachableError, match="another agent of the same runner"):
                await held
        assert peer.agent is not None
        assert await asyncio.to_thread(peer.agent.wait, 10) == 12
        assert "has taken over" in peer.log("agent")

    run(body())


# limits


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /pull/1/wait HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"POST /pull/2/wait HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"POST /pull/1/wait HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"POST /pull/1/in HTTP/1.1\r\nhost: x\r\nhyops-instance: aaaaaaaa\r\nhyops-at: -1\r\n\r\n", 400),
        (
            b"POST /pull/1/in HTTP/1.1\r\nhost: x\r\nhyops-instance: aaaaaaaa\r\nhyops-at: 99999999999999999\r\n\r\n",
            400,
        ),
        (
            b"POST /pull/1/out HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n" + b"x" * (pull.CHUNK_MAX + 1),
            413,
        ),
        (b"POST / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 40000, 431),
        (b"\x16\x03\x01garbage\r\n\r\n", 400),
        (b"POST /pull/1/out HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /pull/1/out HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n", 417),
    ],
)
def test_requests_out_of_bounds_are_answered_so_and_end_the_connection(desk: PullPeer, raw: bytes, status: int) -> None:
    """By one who has a certificate: the status says which, and the next one is served."""
    pki = desk.ca.folder
    context = ssl.create_default_context(cafile=desk.ca.file)
    context.load_cert_chain(pki / "runner.crt", pki / "runner.key")
    with (
        socket.create_connection(("127.0.0.1", desk.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as link,
    ):
        with contextlib.suppress(OSError):
            link.sendall(raw)
        assert link.recv(64).split(b" ")[1] == str(status).encode()
    assert asking(desk).ask("wait", "", at=0).status == 200


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    "line",
    [
        b"x" * 10000 + b"\n",
        b"{}\n",
        b"[1]\n",
        b'{"runner_ref":1,"limit_s":1}\n',
        b'{"runner_ref":"x","limit_s":1e9}\n',
        b'{"runner_ref":"cloud-runner","limit_s":NaN}\n',
        b'{"runner_ref":"stranger","limit_s":9}\n',
        b"",
    ],
)
def test_nonsense_on_the_desks_socket_is_refused(desk: PullPeer, line: bytes) -> None:
    """Too long, mistyped, an unknown runner: a line that says no, and the end."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(desk.socket))
        link.sendall(line)
        link.shutdown(socket.SHUT_WR)
        said = link.makefile("rb").read()
    assert (json.loads(said)["ok"] is False) if line else (said == b"")


@pytest.mark.req("RUN-11")
def test_a_desk_or_an_agent_that_is_not_there_is_unreachable(desk: PullPeer, tmp_path: Path) -> None:
    """Two different words for the two; a runner that nobody configured is a third."""

    async def body() -> None:
        for path, ref, said in (
            (tmp_path / "nothing", "cloud-runner", "no link"),
            (desk.socket, "idle-runner", "no agent of it is connected"),
        ):
            with pytest.raises(RunnerUnreachableError, match=said):
                async with PullRunnerTransport(path, REFS, VERIFIER, 0.05).connect(ref):
                    pytest.fail("connected")
        with pytest.raises(PrerequisiteError, match="no runner"):
            async with PullRunnerTransport(desk.socket, REFS, VERIFIER).connect("other"):
                pytest.fail("connected")

    asyncio.run(body())


@pytest.mark.req("RUN-11", "INV-8")
def test_only_so_many_channels_of_one_runner(peer: PullPeer) -> None:
    """One more than the limit is refused, and taken once another has ended."""
    transport = PullRunnerTransport(peer.socket, REFS, VERIFIER)

    async def body() -> None:
        async with transport.connect("cloud-runner") as link:
            pipes = [await link._link.open() for _ in range(pull.CHANNELS_MAX)]
            with pytest.raises(ConnectionError, match="the most for one runner"):
                await link._link.open()
            pipes[3].close()
            await pipes[3].gone()  # type: ignore[attr-defined]
            while True:
                with contextlib.suppress(ConnectionError):
                    pipe = await link._link.open()
                    break
            await pipe.write(wire.encode({"verb": "status", "run_id": "run-x"}))
            assert b"running" in await pipe.read_line()

    run(body())


# the agent


@pytest.mark.req("INV-8", "RUN-8")
def test_a_server_gets_the_environment_of_a_login_and_nothing_of_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a database's password nor anything else that lies in the agent's environment reaches what it starts."""
    for name in ("PGPASSWORD", "DATABASE_URL", "SSH_AUTH_SOCK", "PYTHONPATH"):
        monkeypatch.setenv(name, "canary-77ab")
    greeting = {"ok": True, "runner_ref": "cloud-runner", "site": "cloud", "hyops_version": "0", "open_runs": []}
    greeting |= {"protocol_min": PROTOCOL_MIN, "protocol_max": PROTOCOL_MAX, "disk_free_bytes": 1}
    script = f"import json, os, sys; told = {greeting!r} | {{'status': {{'run_id': str(dict(os.environ)),"
    script += "'state': 'running', 'epoch': 1}}\nfor _ in sys.stdin: print(json.dumps(told), flush=True)"
    made = PullPeer(tmp_path / "peer", command=[sys.executable, "-c", script])
    made.start()

    async def body() -> str:
        async with PullRunnerTransport(made.socket, REFS, VERIFIER).connect("cloud-runner") as link:
            return (await link.status("run-x")).run_id

    try:
        seen = run(body())
    finally:
        made.end()
    assert "'PATH'" in seen
    assert "canary-77ab" not in seen


@pytest.mark.req("RUN-11", "INV-5")
def test_a_server_that_cannot_be_started_has_ended_with_126(tmp_path: Path) -> None:
    """Said as a status, not as a lost link."""
    made = PullPeer(tmp_path / "peer", command=["/nonexistent/hyops", "runner-serve"])
    made.start()

    async def body() -> None:
        async with PullRunnerTransport(made.socket, REFS, VERIFIER).connect("cloud-runner") as link:
            with pytest.raises(RunnerUnreachableError, match="ended with status 126"):
                await link.status("run-x")

    try:
        run(body())
    finally:
        made.end()


@pytest.mark.req("UX-1", "INV-8")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database_url": "postgres://"}, "unknown key 'database_url'"),
        ({"host": "a b"}, "host: "),
        ({"host": "-x"}, "host: "),
        ({"port": "8443"}, "port: "),
        ({"port": True}, "port: "),
        ({"ca_file": "ca.crt"}, "ca_file: "),
        ({"serve_command": []}, "serve_command: "),
        ({"serve_command": "sh"}, "serve_command: "),
        ({"answer_limit_s": float("inf")}, "answer_limit_s: "),
    ],
)
def test_an_agents_configuration_names_what_is_wrong(desk: PullPeer, change: dict[str, Any], said: str) -> None:
    """Every key is typed; there is none for credentials of anything but the desk."""
    with pytest.raises(ConfigError, match=said):
        PullConfig.load(desk.configured(**change))


@pytest.mark.req("RUN-3")
def test_a_key_that_others_may_read_is_refused(desk: PullPeer) -> None:
    """Before anything is dialled."""
    desk.ca.issue("open", "cloud-runner")
    (desk.ca.folder / "open.key").chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        asking(desk, "open")


@pytest.mark.req("RUN-5", "RUN-11")
@pytest.mark.fault(14, 12)
@pytest.mark.parametrize("who", ["desk", "agent"])
def test_a_killed_desk_or_agent_comes_back_and_serves(peer: PullPeer, who: str) -> None:
    """kill -9 in the middle of a call: a lost link and no outcome; started again, the next connection works."""
    transport = PullRunnerTransport(peer.socket, REFS, VERIFIER)
    peer.says("hang status")

    async def body() -> None:
        async with transport.connect("cloud-runner") as link:
            held = asyncio.create_task(link.status("run-x"))
            await asyncio.to_thread(wait_for, (peer.folder / "hanging").exists, "the call")
            (peer.end_desk if who == "desk" else peer.end_agent)(signal.SIGKILL)
            with pytest.raises(RunnerUnreachableError, match="link is lost"):
                await held
        peer.says("")
        await asyncio.to_thread(peer.start_desk if who == "desk" else peer.start_agent)
        async with transport.connect("cloud-runner") as link:
            assert (await link.status("run-y")).state == "running"

    run(body())
