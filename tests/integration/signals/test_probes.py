"""Probes against a real PostgreSQL pair, real sockets and a scripted DNS authority."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

from hyops.adapters.probes_network import NOT_RECEIVING_S, network_probes
from hyops.adapters.probes_stream import Stream
from hyops.model.policy import Signal
from hyops.model.signal import Sample
from hyops.ports.signals import Watched, Watchlist

ENDPOINT = "pg.lab.hyops.internal"


def watched(port: int, source: str = "postgresql", **words: Any) -> Watched:
    """One signal about 127.0.0.1."""
    authority = words.pop("authority", None)
    chosen = {"name": "s", "source": source, "vantages": ["here"], "timeout_s": 5.0, "interval_s": 0.05, **words}
    return Watched(
        signal=Signal(**chosen),
        host="db",
        address="127.0.0.1",
        port=port,
        endpoint=ENDPOINT,
        authority=authority,
    )


def looks(one: Watched, count: int = 1, password: str | None = None, **words: str) -> list[Sample]:
    """The first samples that a vantage point reports of it."""

    async def run() -> list[Sample]:
        with closing_probes(password) as probes:
            return await gathered(one, count, probes, **words)

    return asyncio.run(run())


@contextmanager
def closing_probes(password: str | None = None) -> Iterator[dict[str, Any]]:
    """Probes whose kept connections end with the test."""
    probes: dict[str, Any] = network_probes(password)
    try:
        yield probes
    finally:
        probes["postgresql"].close()


async def gathered(one: Watched, count: int, probes: Any, **words: str) -> list[Sample]:
    """The same inside of a loop."""
    found: list[Sample] = []
    enough = asyncio.Event()

    def emit(sample: Sample) -> None:
        found.append(sample)
        if len(found) >= count:
            enough.set()

    task = asyncio.create_task(Stream(Watchlist(vantage="here", watched=[one], **words), probes, emit).run())
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    waiting.cancel()
    task.cancel()
    await asyncio.gather(task, waiting, return_exceptions=True)
    assert len(found) >= count, "the stream ended or stood still"
    return found


@pytest.mark.req("DEC-2")
def test_a_primary_answers_and_a_standby_is_none(pair: Any) -> None:
    """Value 1 from the primary; 0 where the address of the primary leads to a database in recovery."""
    (primary,) = looks(watched(pair.primary.port))[:1]
    (standby,) = looks(watched(pair.standby.port))[:1]

    assert (primary.value, primary.error) == (1.0, None)
    assert standby.value == 0.0


@pytest.mark.req("DEC-2")
def test_a_standby_says_how_fresh_its_wal_is(pair: Any) -> None:
    """The age of the newest message of a streaming standby is below its keepalive; a primary receives nothing."""
    signal_words = {"about": "target", "query": "wal_received", "comparator": "lte", "threshold": 2.0}
    (standby,) = looks(watched(pair.standby.port, **signal_words))[:1]
    (primary,) = looks(watched(pair.primary.port, **signal_words))[:1]

    assert standby.value is not None
    assert 0 <= standby.value < 4
    assert primary.value == NOT_RECEIVING_S


@pytest.mark.req("INV-5")
def test_a_status_that_is_hidden_is_not_a_silent_receiver(pair: Any) -> None:
    """Without pg_monitor nobody can say whether WAL arrives: unknown, or the guard against path failures were off."""
    words = {"about": "target", "query": "wal_received", "comparator": "lte", "threshold": 2.0}
    (sample,) = looks(watched(pair.standby.port, **words), user="plain")[:1]

    assert sample.value is None
    assert "pg_monitor" in (sample.error or "")


@pytest.mark.req("INV-5")
@pytest.mark.parametrize(
    ("user", "password", "dbname"),
    [
        ("locked", "wrong", "postgres"),
        ("locked", None, "postgres"),
        ("shut", None, "postgres"),
        ("nobody_knows", None, "postgres"),
        ("hyops", None, "no_such_database"),
    ],
)
def test_a_login_that_is_refused_says_nothing_of_the_primary(
    pair: Any, user: str, password: str | None, dbname: str
) -> None:
    """A rotated password on every vantage point must not look like a dead primary: no value."""
    (sample,) = looks(watched(pair.primary.port), password=password, user=user, dbname=dbname)[:1]

    assert sample.value is None
    assert sample.error


def test_the_right_password_lets_in(pair: Any) -> None:
    """The control of the test above."""
    assert looks(watched(pair.primary.port), password="right", user="locked")[0].value == 1.0


def test_a_kept_connection_that_was_cut_costs_no_look(pair: Any) -> None:
    """An administrator (or a firewall) ends the probe's session: the same look goes over a fresh one, value 1."""

    async def run() -> list[Sample]:
        with closing_probes() as probes:
            before = await gathered(watched(pair.primary.port), 2, probes)
            cut = (
                "select count(pg_terminate_backend(pid, 1000)) from pg_stat_activity where application_name like 'hy%'"
            )
            assert int(await asyncio.to_thread(pair.primary.sql, cut)) >= 1
            return before + await gathered(watched(pair.primary.port), 2, probes)

    assert {sample.value for sample in asyncio.run(run())} == {1.0}


@pytest.mark.req("DEC-2")
def test_a_server_that_freezes_in_a_query_fails_within_the_limit(pair: Any) -> None:
    """Every process of the primary is stopped while the probe holds a session: value 0 at the time limit, not later."""

    async def run() -> list[Sample]:
        with closing_probes() as probes:
            await gathered(watched(pair.primary.port), 1, probes)
            processes = server_processes(pair.primary.data)
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            try:
                return await gathered(watched(pair.primary.port, timeout_s=0.5), 3, probes)
            finally:
                for pid in processes:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)

    samples = asyncio.run(run())

    assert [sample.value for sample in samples[:3]] == [0.0] * 3
    assert max(sample.elapsed_s or 9 for sample in samples) < 20  # one that waited for the server would wait for ever


def server_processes(data: Path) -> list[int]:
    """The postmaster and its children."""
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    return [postmaster, *map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())]


@pytest.mark.parametrize("source", ["postgresql", "tcp"])
def test_a_closed_port_is_bad(source: str) -> None:
    """Refused at once: value 0."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        (sample,) = looks(watched(held.getsockname()[1], source))[:1]

    assert sample.value == 0.0


@pytest.mark.parametrize("source", ["postgresql", "tcp"])
def test_an_address_that_swallows_everything_is_bad_at_the_limit(source: str) -> None:
    """A full backlog drops every SYN: value 0 once the time limit has passed, and the vantage is still well."""
    with socket.socket() as hole, socket.socket() as first, socket.socket() as second:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(hole.getsockname())
        (sample,) = looks(watched(hole.getsockname()[1], source, timeout_s=0.3))[:1]

    assert (sample.value, sample.healthy_vantage) == (0.0, True)
    assert 0.29 <= (sample.elapsed_s or 0) < 20


def test_silence_of_the_target_proves_nothing() -> None:
    """A standby that does not answer is unknown, so that nothing is promoted or denied on it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        (sample,) = looks(watched(silent.getsockname()[1], about="target", timeout_s=0.2))[:1]

    assert sample.value is None


@pytest.mark.req("INV-5")
@pytest.mark.parametrize("source", ["postgresql", "tcp"])
def test_a_host_without_descriptors_does_not_blame_the_primary(source: str) -> None:
    """EMFILE is a fault of the vantage point: no value, though the port is open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    one = watched(1, source)

    async def run() -> list[Sample]:
        probes = network_probes()
        import psycopg  # noqa: F401  # loaded before nothing can be opened any more

        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
        return await gathered(one, 1, probes)

    with socket.socket() as live:
        live.bind(("127.0.0.1", 0))
        live.listen(5)
        one = one.model_copy(update={"port": live.getsockname()[1]})
        try:
            samples = asyncio.run(run())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert samples[0].value is None


def refusal(state: str, words: str) -> bytes:
    """An ErrorResponse in the server's own language."""
    body = f"SFATAL\0VFATAL\0C{state}\0M{words}\0\0".encode()
    return b"E" + struct.pack("!i", len(body) + 4) + body


@pytest.mark.req("INV-5")
@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (refusal("57P03", "das Datenbanksystem startet"), 0.0),
        (refusal("58030", "Eingabe-/Ausgabefehler"), 0.0),
        (refusal("28P01", "Passwort-Authentifizierung fehlgeschlagen"), None),
        (refusal("53300", "zu viele Verbindungen"), None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", None),
        (b"", 0.0),
    ],
    ids=["starting", "disk", "password", "full", "other-protocol", "hangs-up"],
)
def test_the_code_decides_and_not_the_words(listening: Any, answer: bytes, value: float | None) -> None:
    """A server that cannot serve is bad, one that lives and turns the probe away is unknown, in any language."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(8)
        if struct.unpack("!ii", head)[1] == 80877103:  # libpq asks for TLS first
            writer.write(b"N")
            head = await reader.readexactly(8)
        await reader.readexactly(struct.unpack("!i", head[:4])[0] - 8)
        writer.write(answer)
        await writer.drain()

    async def run() -> list[Sample]:
        async with listening(serve) as port:
            return await gathered(watched(port, timeout_s=2.0), 1, network_probes())

    assert asyncio.run(run())[0].value == value


class Authority(asyncio.DatagramProtocol):
    """A DNS server that answers as the test says; a list of bytes per question."""

    def __init__(self, answers: Callable[[dns.message.Message], list[bytes]]) -> None:
        self._answers = answers
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep it."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer."""
        for answer in self._answers(dns.message.from_wire(data)):
            self._transport.sendto(answer, addr)


def reply(question: dns.message.Message, *addresses: str, rcode: int = 0) -> bytes:
    """A well-formed answer."""
    answer = dns.message.make_response(question)
    answer.set_rcode(dns.rcode.Rcode(rcode))
    if addresses:
        answer.answer.append(dns.rrset.from_text(ENDPOINT + ".", 30, "IN", "A", *addresses))
    return answer.to_wire()


def forged(question: dns.message.Message) -> bytes:
    """An answer with another id, as somebody who guesses sends it."""
    answer = bytearray(reply(question, "10.9.9.9"))
    answer[0] ^= 0xFF
    return bytes(answer)


@pytest.mark.req("DEC-2")
@pytest.mark.parametrize(
    ("answers", "value"),
    [
        (lambda q: [reply(q, "127.0.0.1")], 1.0),
        (lambda q: [reply(q, "10.0.0.1")], 0.0),
        (lambda q: [reply(q, "127.0.0.1", "10.0.0.1")], 0.0),
        (lambda q: [reply(q, rcode=dns.rcode.NXDOMAIN)], 0.0),
        (lambda q: [forged(q), b"\0", reply(q, "127.0.0.1")], 1.0),
        (lambda q: [], 0.0),
    ],
    ids=["right", "other", "two", "nxdomain", "forged-first", "silent"],
)
def test_a_name_resolves_to_the_member_or_it_does_not(
    answers: Callable[[dns.message.Message], list[bytes]], value: float
) -> None:
    """1 only for exactly the member's address; a stray datagram in front of the answer changes nothing."""

    async def run() -> list[Sample]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Authority(answers), ("127.0.0.1", 0))
        try:
            port = transport.get_extra_info("sockname")[1]
            one = watched(5432, "dns", authority=f"127.0.0.1:{port}", timeout_s=0.3)
            return await gathered(one, 1, network_probes())
        finally:
            transport.close()

    assert asyncio.run(run())[0].value == value


@pytest.mark.parametrize("authority", ["dns.example:53", "127.0.0.1", "[::1]:none", None])
def test_an_authority_that_cannot_be_asked_is_unknown(authority: str | None) -> None:
    """A wrong configuration is no failure of the service, and is said."""
    (sample,) = looks(watched(5432, "dns", authority=authority))[:1]

    assert sample.value is None
    assert sample.error


def test_a_measure_that_does_not_exist_is_said() -> None:
    """A misspelt `query` of a postgresql signal is refused where the policy is read, with the words that there are."""
    with pytest.raises(ValueError, match="'primry' is none of primary, standby"):
        watched(1, query="primry")
