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
from hyops.errors import RecordError
from hyops.model.approval import ApprovalPolicy
from hyops.model.takeover import TakenOver
from hyops.services.looking import AT_ONCE
from hyops.services.takeover_adopt import Adopted, Adopter, AdoptStores, Trust, WithTaken
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


class Odd(Survivors):
    """One whose runner with the odd name has a takeover to tell, by which our code falls over at the named call."""

    def __init__(self, falls: str) -> None:
        super().__init__("")
        self._falls = falls
        self.asked: list[str] = []

    @asynccontextmanager
    async def connect(self, runner_ref: str, look: object = None) -> AsyncIterator[Any]:
        """One link."""

        def told(call: str, answer: Any) -> Any:
            async def tell(*_: object) -> Any:
                if runner_ref == "a-odd" and call == self._falls:
                    raise OverflowError("a date that no clock has")
                if runner_ref != "a-odd":
                    self.asked.append(call)
                return answer if runner_ref == "a-odd" or call != "jobs" else []

            return tell

        job = SimpleNamespace(run_id="run-1", state="running", facts={"taken_over_by": "ada"})
        answers = {"differs": None, "hello": SimpleNamespace(site="cloud"), "jobs": [job], "taken": b""}
        yield SimpleNamespace(**{call: told(call, answer) for call, answer in answers.items()})


def adopter_of(folder: Path, names: list[str], transport: Survivors) -> Adopter:
    """It knows no service, and has recorded nothing."""
    return Adopter(
        AdoptStores(*(MemoryRecordStore() for _ in range(4))),
        policies={},
        runners=names,
        transport=transport,  # type: ignore[arg-type]
        epochs=FileStarts(folder / "starts"),
        trust=Trust(VERIFIER, SeedApprovals(APPROVER), ApprovalPolicy(), 2),
        signer=STAGES["execution"],
        clock=FakeClock(),
    )


@pytest.mark.parametrize(("falls", "run_id"), [("hello", None), ("jobs", None), ("taken", "run-1")])
def test_an_error_that_nobody_foresaw_keeps_no_other_runner_from_being_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], falls: str, run_id: str | None
) -> None:
    """It is told of that runner or that takeover, and said once to the journal, however often it is asked."""
    transport = Odd(falls)
    adopter = adopter_of(tmp_path, ["a-odd", "z-runner"], transport)

    with asyncio.Runner(loop_factory=Loop) as loop:
        found = [loop.run(adopter.step()) for _ in range(2)]

    why = "OverflowError: a date that no clock has"
    assert found == [[Adopted("a-odd", run_id, "failed", why)]] * 2
    assert transport.asked == ["differs", "hello", "jobs"] * 2
    assert capsys.readouterr().err.count(why) == 1


def test_an_error_that_nobody_foresaw_keeps_no_executor_from_its_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it starts anything it asks for takeovers; it asks again later."""

    async def step() -> None:
        raise OverflowError("a date that no clock has")

    monkeypatch.setattr(compose_takeover, "adopter", lambda *_: SimpleNamespace(step=step))
    config: Any = SimpleNamespace(takeover=object())

    asyncio.run(compose_takeover.Following(config, None, None).first())  # type: ignore[arg-type]

    assert "a date that no clock has" in capsys.readouterr().err


@pytest.mark.req("RUN-11", "EXE-1")
@pytest.mark.fault(14, 30)
@pytest.mark.parametrize("silent", [3, 2 * AT_ONCE - 1])
def test_the_survivor_is_asked_before_anything_is_started(tmp_path: Path, silent: int) -> None:
    """However many runners are dead before it in the alphabet: all are through within the time that a start has."""
    names = [*(f"a-runner-{number:03d}" for number in range(silent)), "z-runner"]
    transport = Survivors("z-runner")
    adopter = adopter_of(tmp_path, names, transport)

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


@pytest.mark.req("INV-9", "EVD-1", "INV-5")
def test_a_takeover_that_nobody_can_read_hides_no_other_ones_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence of one is made although another one's file was changed by hand; what nobody has may be in that file."""
    base, taken = MemoryRecordStore(), MemoryRecordStore()
    for run_id, record_id in (("run-1", "plan-1"), ("run-2", None), ("run-3", "plan-3")):
        taken.create(run_id, json.dumps({"has": record_id}).encode())

    def read(data: bytes, *, source: str) -> Any:
        if (has := json.loads(data)["has"]) is None:
            raise RecordError(f"{source}: spec: missing key")
        return {has: data}

    monkeypatch.setattr(TakenOver, "read", read)
    both = WithTaken(base, taken, lambda one: one)  # type: ignore[arg-type, return-value]

    assert both.read("plan-1") == taken.read("run-1")
    assert both.read("plan-3") == taken.read("run-3")
    with pytest.raises(RecordError, match="run-2: spec"):
        both.read("plan-2")
