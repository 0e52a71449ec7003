"""A real `hyops probe stream`: stopped and thawed it has no vote, and what it looks at can be changed under way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hyops.model.policy import Signal
from hyops.model.signal import Sample
from hyops.ports.signals import Watched, Watchlist
from loopback import free_ports
from waiting import PATIENCE_S, stand_still

PROBE = (sys.executable, "-m", "hyops", "probe", "stream")


def listing(*names: str, port: int = 1, host: str = "db", witnesses: list[str] | None = None) -> Watchlist:
    """A port where nobody listens, for services of these names."""
    pace = {"source": "tcp", "vantages": ["here"], "interval_s": 0.05, "timeout_s": 1.0}
    watched = [
        Watched(signal=Signal.of({"name": "port", **pace}), host=host, address="127.0.0.1", port=port, service=name)
        for name in names
    ]
    return Watchlist(vantage="here", watched=watched, witnesses=witnesses)


class Probe:
    """The process and its two pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def tell(self, line: bytes) -> None:
        """A line of its configuration."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def sample(self) -> Sample:
        """Its next one."""
        assert self.process.stdout is not None
        return Sample.read(self.process.stdout.readline())


@contextmanager
def probing(watchlist: Watchlist) -> Iterator[Probe]:
    """Ended with the test."""
    with subprocess.Popen(PROBE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        probe = Probe(process)
        probe.tell(json.dumps(watchlist.body()).encode())
        try:
            yield probe
        finally:
            process.kill()


@pytest.mark.fault(1)
@pytest.mark.req("DEC-4", "INV-5")
def test_a_prober_that_was_stopped_has_no_vote_when_it_thaws() -> None:
    """SIGSTOP for a second: of what it says then, nothing counts until it was well for a while, and it says why."""
    with probing(listing("a")) as probe:
        while not probe.sample().healthy_vantage:
            pass
        os.kill(probe.process.pid, signal.SIGSTOP)
        stand_still(1.0, "the stopped prober's monotonic clock goes on")
        os.kill(probe.process.pid, signal.SIGCONT)
        while (sample := probe.sample()).healthy_vantage:
            pass
        assert "got no turn for" in (sample.detail or sample.error or "")
        while not probe.sample().healthy_vantage:
            pass


@pytest.mark.fault(1)
@pytest.mark.req("DEC-4")
def test_a_prober_without_a_network_has_no_vote() -> None:
    """Its only witness is silent: every sample says so."""
    (port,) = free_ports(1)
    with probing(listing("a", witnesses=[f"dns://127.0.0.1:{port}"])) as probe:
        found = [probe.sample() for _ in range(10)]

    assert not any(sample.healthy_vantage for sample in found)
    assert "none of its witnesses answers" in (found[0].detail or "")


@pytest.mark.req("DEC-2")
def test_a_changed_list_is_obeyed_and_what_stays_has_no_gap() -> None:
    """Another line: a new service is looked at, a moved one at its new host, and the third as if nothing had been."""
    with probing(listing("a", "b")) as probe:
        seen: dict[str, list[Sample]] = {}
        while len(seen) < 2:
            sample = probe.sample()
            seen.setdefault(sample.service or "", []).append(sample)
        moved = [*listing("a").watched, *listing("b", host="other").watched, *listing("c").watched]
        probe.tell(json.dumps(Watchlist(vantage="here", watched=moved).body()).encode())
        while "c" not in seen or seen["b"][-1].host != "other":
            sample = probe.sample()
            seen.setdefault(sample.service or "", []).append(sample)

    assert [sample.sequence for sample in seen["a"]] == list(range(len(seen["a"])))
    assert {sample.host for sample in seen["a"]} == {"db"}


@pytest.mark.req("UX-1")
def test_a_later_line_that_is_none_ends_the_stream() -> None:
    """As at the beginning: exit 11, the fault is told, and nobody takes the old list for the new one."""
    with probing(listing("a")) as probe:
        probe.sample()
        probe.tell(b'{"vantage": "here", "surprise": 1}')

        assert probe.process.stdout is not None
        probe.process.stdout.read()
        assert probe.process.stderr is not None
        assert b"surprise" in probe.process.stderr.read()
        assert probe.process.wait(timeout=PATIENCE_S) == 11
