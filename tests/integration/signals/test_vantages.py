"""Vantage points over a real sshd and as a child process: samples flow, and every way of losing one is `Lost`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters import signals_ssh
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.signals_ssh import Limits, LocalVantage, SshVantage
from hyops.model.policy import Signal
from hyops.ports.signals import Lost, Received, Watched, Watchlist
from waiting import PATIENCE_S

LIMITS = Limits(connect_s=10.0, silence_s=10.0, retry_first_s=0.02, retry_max_s=0.1)
LISTED = Watched(
    signal=Signal(name="port", source="tcp", vantages=["witness"], interval_s=0.02, timeout_s=2.0),
    host="db",
    address="127.0.0.1",
    port=1,
)
WATCHLIST = Watchlist(vantage="witness", watched=[LISTED])
SAMPLE = json.dumps({"vantage": "witness", "signal": "port", "sequence": 0, "taken_at": "2026-01-31T12:00:00Z"})
Event = Received | Lost


def events(source: Any, count: int) -> list[Event]:
    """The first events of a source, which is then closed."""

    async def run() -> list[Event]:
        async with aclosing(source.observe(WATCHLIST)) as stream:
            return [await within(stream) for _ in range(count)]

    return asyncio.run(run())


async def within(stream: AsyncGenerator[Event, None]) -> Event:
    """The next event."""
    async with asyncio.timeout(PATIENCE_S):
        return await anext(stream)


def reason(event: Event) -> str:
    """Why it was lost; fails for a sample."""
    assert isinstance(event, Lost), event
    assert event.vantage == "witness"
    return event.reason


def vantage(sshd: Any, **limits: float) -> SshVantage:
    """The vantage point behind the server."""
    return SshVantage("witness", SystemClock(), sshd.target, replace(LIMITS, **limits))


@pytest.mark.req("DEC-2")
def test_samples_flow_over_ssh(sshd: Any) -> None:
    """The real `hyops probe stream` as forced command: consecutive samples of this vantage, none lost."""
    sshd.command(f"exec {sys.executable} -m hyops probe stream --vantage witness")

    found = [event.sample for event in events(vantage(sshd), 3) if isinstance(event, Received)]

    assert [(sample.sequence, sample.value) for sample in found] == [(0, 0.0), (1, 0.0), (2, 0.0)]


@pytest.mark.fault(16)
@pytest.mark.req("RUN-3")
def test_a_changed_host_key_gets_nothing(sshd: Any) -> None:
    """Another key than the pinned one: no sample, and the forced command has never run."""
    sshd.command(f"touch {sshd.folder}/ran; echo '{SAMPLE}'; cat >/dev/null")
    sshd.pin("other_key")

    first, second = events(vantage(sshd), 2)

    assert "host key" in reason(first).lower()
    assert "host key" in reason(second).lower()
    assert not (sshd.folder / "ran").exists()


@pytest.mark.parametrize("spoilt", ["known_hosts", "client_key"])
def test_a_broken_key_file_is_a_lost_vantage(sshd: Any, spoilt: str) -> None:
    """One vantage's broken file does not end the service that watches the others."""
    (sshd.folder / spoilt).write_text("this is not a key\n")

    assert reason(events(vantage(sshd), 1)[0])


@pytest.mark.fault(14)
def test_a_killed_server_is_lost_and_dialled_again(sshd: Any) -> None:
    """kill -9 of sshd: `Lost`, then `Lost` for each failed try, then samples of the new server."""
    sshd.command(f"echo '{SAMPLE}'; cat >/dev/null")

    async def run() -> list[Event]:
        async with aclosing(vantage(sshd).observe(WATCHLIST)) as stream:
            found = [await within(stream)]
            await asyncio.to_thread(sshd.kill)
            found += [await within(stream), await within(stream)]
            await asyncio.to_thread(sshd.start)
            while not isinstance(found[-1], Received):
                found.append(await within(stream))
            return found

    found = asyncio.run(run())

    assert isinstance(found[0], Received)
    assert [type(event) for event in found[1:3]] == [Lost, Lost]


def other(**words: Any) -> str:
    """A sample that was changed."""
    return json.dumps({**json.loads(SAMPLE), **words})


@pytest.mark.req("INV-5")
def test_a_probe_that_ended_before_it_was_written_to_is_heard(sshd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sample and its exit status count, not that nothing could be sent to it any more."""
    real = signals_ssh.forced_command

    @asynccontextmanager
    async def late(*words: Any, **more: Any) -> AsyncIterator[Any]:
        async with real(*words, **more) as process:
            await process.wait_closed()
            yield process

    monkeypatch.setattr(signals_ssh, "forced_command", late)
    sshd.command(f"echo '{SAMPLE}'; exit 11")

    first, second = events(vantage(sshd), 2)

    assert isinstance(first, Received)
    assert "exit status 11" in reason(second)


@pytest.mark.req("INV-5")
@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("printf 'hello\\n'", "column"),
        (f"echo '{other(vantage='control')}'", "speaks for control"),
        (f"echo '{other(surprise=1)}'", "surprise"),
        (f"echo '{other(sequence=-1)}'", "sequence"),
        (f"echo '{other(value=1e308)}' | sed s/1e+308/1e999/", "finite"),
        (f"echo '{other(taken_at='0001-01-01T00:00:00+14:00')}'", "taken_at"),
        ("head -c 17000 /dev/zero; echo", "longer"),
        ("head -c 5000000 /dev/zero", "lon"),
        (f"printf '%s' '{SAMPLE}'", "within a line"),
        ("echo", "empty"),
        ("exit 11", "exit status 11"),
    ],
    ids=["text", "foreign", "unknown-key", "range", "infinite", "time", "long", "endless", "torn", "empty", "exit"],
)
def test_nonsense_ends_the_connection(sshd: Any, said: str, why: str) -> None:
    """A vantage that speaks nonsense has no vote: the good sample before it counts, then it is lost."""
    sshd.command(f"echo '{SAMPLE}'; {said}")

    first, second, third = events(vantage(sshd), 3)

    assert isinstance(first, Received)
    assert why in reason(second)
    assert isinstance(third, Received), "it is dialled again"


def test_words_on_standard_error_do_not_stop_the_samples(sshd: Any) -> None:
    """More noise than any buffer holds, and the stream goes on."""
    sshd.command(f"head -c 5000000 /dev/zero >&2; echo '{SAMPLE}'; cat >/dev/null")

    assert isinstance(events(vantage(sshd), 1)[0], Received)


@pytest.mark.fault(14)
def test_silence_is_lost(sshd: Any) -> None:
    """A peer that is there and says nothing has no vote: `Lost` at the limit."""
    sshd.command(f"echo '{SAMPLE}'; cat >/dev/null")

    first, second = events(vantage(sshd, silence_s=0.2), 2)

    assert isinstance(first, Received)
    assert "time limit" in reason(second)


def test_a_slow_list_is_not_taken_for_silence(sshd: Any) -> None:
    """Where the busiest probe is slower than the limit, the limit is twice its round."""
    slow = LISTED.model_copy(update={"signal": LISTED.signal.model_copy(update={"interval_s": 60.0})})
    sshd.command(f"cat >/dev/null & echo '{SAMPLE}'; read line; echo '{SAMPLE}'; wait")

    async def run() -> None:
        source = vantage(sshd, silence_s=0.01)
        async with aclosing(source.observe(Watchlist(vantage="witness", watched=[slow]))) as stream:
            assert isinstance(await within(stream), Received)

    asyncio.run(run())


def test_a_frozen_server_is_lost_at_the_connect_limit(listening: Any, tmp_path: Path, sshd: Any) -> None:
    """Something accepts and never says a word of SSH: the try ends at its limit."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async def run() -> Event:
        async with listening(serve) as port:
            source = SshVantage(
                "witness", SystemClock(), replace(sshd.target, port=port), replace(LIMITS, connect_s=0.2)
            )
            async with aclosing(source.observe(WATCHLIST)) as stream:
                return await within(stream)

    assert "time limit" in reason(asyncio.run(run()))


@pytest.mark.fault(14)
def test_closing_does_not_wait_for_a_peer_that_is_gone(sshd: Any) -> None:
    """With the peer frozen (a cut link), closing takes about a second at most, and leaves no task."""
    sshd.command(f"echo '{SAMPLE}'; cat >/dev/null")

    async def run() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        async with aclosing(vantage(sshd).observe(WATCHLIST)) as stream:
            await within(stream)
            pids = serving(sshd.process.pid)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            began = loop.time()
        took = loop.time() - began
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        return took, len(asyncio.all_tasks())

    took, tasks = asyncio.run(run())

    assert took < 10
    assert tasks == 1


def serving(pid: int) -> list[int]:
    """A process and everything below it."""
    below = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(one for child in below for one in serving(child))]


def local(*argv: str, **limits: float) -> LocalVantage:
    """A child process as vantage point."""
    return LocalVantage("witness", SystemClock(), argv, replace(LIMITS, **limits))


PROBE = (sys.executable, "-m", "hyops", "probe", "stream")


@pytest.mark.req("DEC-2")
def test_the_local_vantage_speaks_as_the_others() -> None:
    """The same program as a child: consecutive samples."""
    found = [event.sample for event in events(local(*PROBE, "--vantage", "witness"), 2) if isinstance(event, Received)]

    assert [sample.sequence for sample in found] == [0, 1]


def test_a_child_that_dies_is_lost_started_again_and_no_zombie() -> None:
    """kill -9 of the child: `Lost`, a new one speaks, and the old one was waited for."""

    async def run() -> None:
        async with aclosing(local(*PROBE).observe(WATCHLIST)) as stream:
            assert isinstance(await within(stream), Received)
            (child,) = children()
            os.kill(child, signal.SIGKILL)
            while isinstance(event := await within(stream), Received):
                pass
            assert "exit status -9" in reason(event)
            assert child not in children()
            assert isinstance(await within(stream), Received)
        assert children() == []

    asyncio.run(run())


def all_children() -> set[int]:
    """Of this process, zombies included."""
    return {int(w) for task in Path("/proc/self/task").glob("*/children") for w in task.read_text().split()}


@pytest.fixture(autouse=True)
def older() -> set[int]:
    """Children that were there before the test: servers of other tests of this session."""
    OLDER.clear()
    OLDER.update(all_children())
    return OLDER


OLDER: set[int] = set()


def children() -> list[int]:
    """Those that the test has made."""
    return sorted(all_children() - OLDER)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("/no/such/program",), "No such file"),
        (("/bin/sh", "-c", "exit 11"), "exit status 11"),
        (("/bin/sh", "-c", "head -c 100000 /dev/zero; tail -f /dev/null"), "longer"),
        (("/bin/sh", "-c", "exec tail -f /dev/null"), "time limit"),
        ((*PROBE, "--vantage", "control"), "exit status 11"),
    ],
    ids=["absent", "exits", "endless", "silent", "other-vantage"],
)
def test_a_child_that_is_no_probe_is_lost(argv: tuple[str, ...], why: str) -> None:
    """Each way has its reason, and leaves no process behind."""
    (event,) = events(local(*argv, silence_s=0.2 if why == "time limit" else 10.0), 1)

    assert why in reason(event)
    assert children() == []


def test_a_cancelled_consumer_leaves_no_child() -> None:
    """The service's task is cancelled while it waits for a sample: the child is gone and waited for."""

    async def run() -> None:
        async def consume() -> None:
            async with aclosing(local(*PROBE).observe(WATCHLIST)) as stream:
                async for _ in stream:
                    started.set()

        started = asyncio.Event()
        task = asyncio.create_task(consume())
        async with asyncio.timeout(PATIENCE_S):
            await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert children() == []

    asyncio.run(run())


def test_a_probe_ends_with_its_parent() -> None:
    """The service is killed with -9: the probe sees its input end and ends too, in success."""
    with subprocess.Popen(PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(WATCHLIST.body()).encode() + b"\n")
        child.stdin.flush()
        assert child.stdout.readline()
        child.stdin.close()

        assert child.wait(timeout=PATIENCE_S) == 0


def test_a_probe_ends_when_nobody_reads() -> None:
    """Its output is closed while its input stays open: it ends, quietly."""
    with subprocess.Popen(PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(json.dumps(WATCHLIST.body()).encode() + b"\n")
        child.stdin.flush()
        child.stdout.readline()
        child.stdout.close()

        assert child.wait(timeout=PATIENCE_S) == 0
        assert child.stderr.read() == b""


@pytest.mark.parametrize(
    ("line", "more", "code"),
    [
        (b"", (), 11),
        (b"{}\n", (), 11),
        (b"x" * 2_000_000, (), 11),
        (json.dumps(WATCHLIST.body()).encode() + b"\n", ("--vantage", "control"), 11),
        (json.dumps(WATCHLIST.body()).encode() + b"\n", ("--password-file", "/no/such/file"), 11),
    ],
    ids=["nothing", "no-list", "endless", "other-vantage", "no-password"],
)
def test_a_probe_refuses_what_it_cannot_follow(line: bytes, more: tuple[str, ...], code: int) -> None:
    """A configuration error is said with its exit code, and not one sample is printed."""
    done = subprocess.run([*PROBE, *more], input=line, capture_output=True, timeout=PATIENCE_S, check=False)

    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr


@pytest.mark.req("DEC-2", "LOOP-1")
@pytest.mark.parametrize("where", ["ssh", "local"])
def test_a_changed_list_reaches_the_program_that_runs_and_the_next_one(
    request: pytest.FixtureRequest, where: str
) -> None:
    """No new connection: another service is looked at too, and the first goes on without a gap; also after a loss."""
    sshd = request.getfixturevalue("sshd") if where == "ssh" else None
    if sshd:
        sshd.command(f"exec {sys.executable} -m hyops probe stream --vantage witness")
    one = WATCHLIST.model_copy(update={"watched": [LISTED.model_copy(update={"service": "a"})]})
    two = one.model_copy(update={"watched": [*one.watched, LISTED.model_copy(update={"service": "b"})]})

    async def run() -> None:
        source = vantage(sshd) if sshd else local(*PROBE)
        found: list[tuple[str | None, int]] = []
        async with aclosing(source.observe(one)) as stream:

            async def until(service: str) -> None:
                while not found or found[-1][0] != service:
                    event = await within(stream)
                    assert isinstance(event, Received), event
                    found.append((event.sample.service, event.sample.sequence))

            await until("a")
            source.rewatch(two)
            await until("b")
            assert [n for name, n in found if name == "a"] == list(range(len(found) - 1))
            if where == "local":
                (child,) = children()
                os.kill(child, signal.SIGKILL)
                while isinstance(await within(stream), Received):
                    pass
                found.clear()
                await until("b")

    asyncio.run(run())
