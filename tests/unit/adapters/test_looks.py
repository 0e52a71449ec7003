"""The looks of a vantage point, on loopback: what is bad, what is unknown, and that slow looks slow nothing down."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hyops.adapters.probes_network import STATEMENTS, PostgresProbe, probe_dns, probe_tcp
from hyops.adapters.probes_stream import Look, Stream
from hyops.errors import RecordError
from hyops.model.policy import MEASURES, Signal
from hyops.model.signal import Sample
from hyops.ports.signals import Watched, Watchlist
from loopback import free_ports
from waiting import PATIENCE_S, stand_still

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def watched(port: int, *, source: str = "tcp", **more: Any) -> Watched:
    """One signal about something on loopback."""
    body = {"name": "x", "source": source, "vantages": ["control"], "interval_s": 0.02, "timeout_s": 0.3, **more}
    return Watched(
        signal=Signal.of(body),
        host="onprem-db",
        address="127.0.0.1",
        port=port,
        endpoint="pg.lab.hyops.internal",
        authority=f"127.0.0.1:{port}",
    )


def listing(*what: Watched) -> Watchlist:
    """The watchlist of `control`."""
    return Watchlist(vantage="control", watched=list(what))


def free_port() -> int:
    """A port where nobody listens."""
    (port,) = free_ports(1)
    return port


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes a connection and says nothing."""
    await reader.read()
    writer.close()


async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with something that is no PostgreSQL."""
    await reader.read(8)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


def seen(what: Watched, serve: Serve | None, samples: int = 3) -> list[Sample]:
    """The first samples of a stream that looks at a server which behaves like this."""

    async def look() -> list[Sample]:
        found: list[Sample] = []
        enough = asyncio.Event()

        def emit(sample: Sample) -> None:
            found.append(sample)
            if len(found) >= samples:
                enough.set()

        server = await asyncio.start_server(serve, "127.0.0.1", what.port) if serve else None
        probes = {"tcp": probe_tcp, "postgresql": PostgresProbe(), "dns": probe_dns}
        task = asyncio.create_task(Stream(listing(what), probes, emit).run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await enough.wait()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if server is not None:
                server.close()
                served = asyncio.all_tasks() - {asyncio.current_task()}  # they see that their clients are gone
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(*served, return_exceptions=True)
        return found

    return asyncio.run(look())


@pytest.mark.req("DEC-2")
def test_an_open_port_is_seen_and_a_closed_one_is_bad() -> None:
    """1 and 0, numbered without a gap."""
    port = free_port()
    up, down = seen(watched(port), silent), seen(watched(port), None)

    assert [(s.value, s.sequence) for s in up[:3]] == [(1.0, 0), (1.0, 1), (1.0, 2)]
    assert [s.value for s in down[:3]] == [0.0, 0.0, 0.0]


@pytest.mark.req("DEC-2", "INV-5")
@pytest.mark.parametrize(("about", "value"), [("primary", 0.0), ("target", None)])
def test_silence_is_bad_of_the_primary_and_unknown_of_the_target(about: str, value: float | None) -> None:
    """Nobody answers: the primary is not serving; but of the target nothing is known."""
    port = free_port()
    refused = seen(watched(port, source="postgresql", about=about), None)
    hanging = seen(watched(port, source="postgresql", about=about), silent, samples=1)

    assert refused[0].value == value
    assert hanging[0].value == value
    assert (hanging[0].elapsed_s or 0) >= 0.3


@pytest.mark.fault(6)
def test_what_is_no_postgresql_is_unknown() -> None:
    """Something else answers on the port: what cannot be parsed is no reason to act (INV-5)."""
    assert seen(watched(free_port(), source="postgresql"), nonsense)[0].value is None


@pytest.mark.req("DEC-4")
def test_slow_looks_overlap_and_stay_in_order() -> None:
    """Looks that take 3 s at a pace of 0.02 s: several are under way, an older one never follows a newer one."""
    samples = seen(watched(free_port(), source="postgresql", timeout_s=3.0), silent, samples=6)
    began = [s.taken_at for s in samples]

    assert began == sorted(began)
    assert (began[5] - began[0]).total_seconds() < 3.0
    assert [s.sequence for s in samples[:6]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.req("DEC-4")
def test_a_vantage_point_that_gets_no_turns_says_so() -> None:
    """The process stands still for 0.5 s: what it then says comes from an unwell vantage point."""

    async def stalls(what: Watched, watchlist: Watchlist) -> Look:
        stand_still(0.5, "the vantage's own clock sees that it got no turn")
        return Look(0.0)

    async def look() -> list[Sample]:
        found: list[Sample] = []
        two = asyncio.Event()

        def emit(sample: Sample) -> None:
            found.append(sample)
            if len(found) == 2:
                two.set()

        task = asyncio.create_task(Stream(listing(watched(1)), {"tcp": stalls}, emit).run())
        async with asyncio.timeout(PATIENCE_S):
            await two.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return found

    assert [s.healthy_vantage for s in asyncio.run(look())][:2] == [False, False]


@pytest.mark.req("INV-5")
def test_a_signal_that_means_nothing_is_refused() -> None:
    """An unknown measure; an age that should be large to be good."""
    with pytest.raises(RecordError, match="none of"):
        watched(1, source="postgresql", query="drop table x")
    with pytest.raises(RecordError, match="lte"):
        watched(1, source="postgresql", name="wal_received", about="target")
    assert set(MEASURES) == set(STATEMENTS)
    assert watched(1, source="postgresql").signal.measure == "primary"
    assert watched(1, source="postgresql", about="target").signal.measure == "standby"


@pytest.mark.req("DEC-2")
def test_the_command_streams_samples_until_its_input_ends() -> None:
    """`hyops probe stream` as the decision service starts it: a watchlist in, lines out, gone with its peer."""
    line = json.dumps(listing(watched(free_port())).body()).encode() + b"\n"
    child = subprocess.Popen(
        [sys.executable, "-m", "hyops", "probe", "stream", "--vantage", "control"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(line)
        child.stdin.flush()
        sample = Sample.read(child.stdout.readline())
        child.stdin.close()

        assert child.wait(timeout=PATIENCE_S) == 0
    assert (sample.vantage, sample.signal, sample.value) == ("control", "x", 0.0)
