"""The loop that every stage runs in: events wake it, and however many there are, the slow pass comes in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest

from hyops.errors import PrerequisiteError, StoreLostError
from hyops.services import loop
from hyops.services.loop import Waker
from hyops.services.progress import Progress
from waiting import PATIENCE_S

LIMIT_S = PATIENCE_S


async def passes(rescan_s: float, wanted: int, fails: int = 0) -> list[bool]:
    """The slow flag of each pass of a stage that is woken without a pause, until `wanted` slow ones have ended well."""
    waker, enough, seen = Waker(), asyncio.Event(), list[bool]()

    async def step(slow: bool) -> None:
        await asyncio.sleep(0)  # other tasks wake a real stage
        seen.append(slow)
        waker.wake()
        if len(seen) <= fails:
            raise PrerequisiteError("the disk is full")
        if seen[fails:].count(True) >= wanted:
            enough.set()

    task = asyncio.create_task(loop._steps(step, waker, "test", rescan_s))
    async with asyncio.timeout(LIMIT_S):
        await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return seen


@pytest.mark.req("LOOP-1")
def test_a_storm_of_events_does_not_starve_the_slow_pass() -> None:
    """Woken again before each pass ends: slow passes still come, and most passes are quick ones."""
    seen = asyncio.run(passes(0.05, wanted=3))

    assert seen[0] is True
    assert seen.count(False) > seen.count(True) == 3


def test_a_slow_pass_that_fails_is_slow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rescan at the start fails: the next pass is the rescan, not a quick one."""
    monkeypatch.setattr(loop, "ERROR_PAUSE_S", (0.0, 0.0))
    seen = asyncio.run(passes(3600.0, wanted=1, fails=2))

    assert seen == [True, True, True]


async def told_systemd(folder: Path, ends: list[Exception | None]) -> list[str]:
    """What a stage whose passes end like this says; NOTIFY_SOCKET is `notify` in the folder."""
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.setblocking(False)
        over = asyncio.Event()

        async def step(slow: bool) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:  # the kernel keeps ten messages for whoever reads none
                    said.append(systemd.recv(4096).decode())
            if not ends:
                over.set()
                await asyncio.Event().wait()
            if (fault := ends.pop(0)) is not None:
                raise fault

        task = asyncio.create_task(loop._steps(step, Waker(), "test", 0.0))
        await asyncio.wait_for(over.wait(), LIMIT_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return said


@pytest.mark.req("LOOP-1", "LOOP-4", "UX-2")
@pytest.mark.fault(13)
def test_a_stage_is_ready_after_the_first_pass_that_worked_and_says_why_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then each failure is its status, on one line, and it is not ready; later failures take nothing back."""
    monkeypatch.setattr(loop, "ERROR_PAUSE_S", (0.0, 0.0))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    forged = PrerequisiteError("the disk is full\nREADY=1")
    said = asyncio.run(told_systemd(tmp_path, [forged, StoreLostError("gone"), None, forged, None]))

    told = [one for one in said if one != "WATCHDOG=1"]
    assert told[0] == "STATUS=test: not ready: the disk is full READY=1"
    assert told[1].startswith("STATUS=test: not ready: no quorum")
    assert told[2] == loop.EXTEND_START  # who waits for a quorum does not hang, and is not begun anew for it
    assert [one.startswith("READY=1\n") for one in told] == [False, False, False, False, True]
    assert said.index(told[4]) > 2  # watched from the beginning, whatever its passes end like


@pytest.mark.req("LOOP-1")
def test_a_part_that_arrived_is_a_sign_of_life_at_most_once_a_second() -> None:
    """It feeds the watchdog and lengthens the start; where nothing arrives nothing is told."""
    told, now_s = list[str](), [0.0]
    progress = Progress(told.append, lambda: now_s[0])
    assert told == []
    for at in (0.0, 0.5, 0.9, 1.0, 1.5, 2.5):
        now_s[0] = at
        progress()
    assert told == ["WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000"] * 3


@pytest.mark.req("LOOP-3", "UX-2")
@pytest.mark.fault(13)
def test_a_lost_quorum_is_said_once_and_so_is_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the log and to systemd; a loss after that, and any other failure in between, is news."""
    monkeypatch.setattr(loop, "ERROR_PAUSE_S", (0.0, 0.0))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    lost, full = StoreLostError("etcd: no quorum"), PrerequisiteError("the disk is full")
    ends: list[Exception | None] = [lost, lost, lost, None, lost, lost, full, lost, None]

    said = asyncio.run(told_systemd(tmp_path, ends))
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    failed, again = "step failed", "records are reached again"
    assert [line["event"] for line in logged] == [failed, again, failed, failed, failed, again]
    statuses = [one for one in said if one.startswith("STATUS")]
    assert ["no quorum" in one for one in statuses] == [True, False, True, True, False]
