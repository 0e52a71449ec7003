"""A control host asks its runners for takeovers: how long that takes, and how what it found is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyops import compose_takeover
from hyops.adapters.starts_files import FileStarts
from hyops.cli.main import main
from hyops.compose_takeover import FIRST_S
from hyops.model.approval import ApprovalPolicy
from hyops.services.looking import AT_ONCE
from hyops.services.takeover_adopt import Adopted, Adopter, AdoptStores, Trust
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import APPROVER, STAGES, VERIFIER, SeedApprovals
from hyops.testing.records import MemoryRecordStore
from unit.cli.test_run_follow import Loop

pytestmark = [pytest.mark.req("INV-9", "DEC-6")]


class Survivors:
    """A transport whose runners never answer, but for one without any run."""

    def __init__(self, lives: str) -> None:
        self._lives = lives
        self.asked_at: float | None = None

    @asynccontextmanager
    async def connect(self, runner_ref: str, look: object = None) -> AsyncIterator[Any]:
        """One link."""
        if runner_ref != self._lives:
            await asyncio.Event().wait()
        yield self

    async def differs(self) -> None:
        """It speaks our protocol."""

    async def hello(self) -> Any:
        """Who it is."""
        return SimpleNamespace(site="cloud")

    async def jobs(self) -> list[Any]:
        """When this is asked it is known that nothing was taken over there."""
        self.asked_at = asyncio.get_running_loop().time()
        return []


@pytest.mark.req("RUN-11", "EXE-1")
@pytest.mark.fault(14, 30)
@pytest.mark.parametrize("silent", [3, 2 * AT_ONCE - 1])
def test_the_survivor_is_asked_before_anything_is_started(tmp_path: Path, silent: int) -> None:
    """However many runners are dead before it in the alphabet: all are through within the time that a start has."""
    names = [*(f"a-runner-{number:03d}" for number in range(silent)), "z-runner"]
    transport = Survivors("z-runner")
    adopter = Adopter(
        AdoptStores(*(MemoryRecordStore() for _ in range(4))),
        policies={},
        runners=names,
        transport=transport,  # type: ignore[arg-type]
        epochs=FileStarts(tmp_path / "starts"),
        trust=Trust(VERIFIER, SeedApprovals(APPROVER), ApprovalPolicy(), 2),
        signer=STAGES["execution"],
        clock=FakeClock(),
    )

    async def first() -> list[Adopted]:
        async with asyncio.timeout(FIRST_S):
            return await adopter.step()

    with asyncio.Runner(loop_factory=Loop) as loop:
        found = loop.run(first())

    assert transport.asked_at is not None
    assert [(one.runner_ref, one.state) for one in found] == [(name, "unreachable") for name in names[:-1]]
    assert all("silent" in one.detail for one in found)


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("states", "code"),
    [
        ("adopted known open behind", 0),
        ("adopted failed", 20),
        ("failed unreachable", 22),
        ("failed unreachable refused adopted", 13),
    ],
)
def test_adopt_ends_as_the_worst_of_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: str, code: int
) -> None:
    """One that does not verify before one that could not be asked; each has its line."""
    found = [Adopted("cloud-runner", f"run-{state}", state, "why") for state in states.split()]  # type: ignore[arg-type]

    async def step() -> list[Adopted]:
        return found

    monkeypatch.setattr(compose_takeover, "on_control", lambda config: (None, SimpleNamespace(step=step)))

    assert main(["takeover", "adopt", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == [one.body() for one in found]
    assert main(["takeover", "adopt"]) == code
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [one.run_id for one in found]
