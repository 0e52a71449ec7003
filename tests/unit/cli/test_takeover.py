"""`hyops takeover` at a runner: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from hyops import compose_takeover
from hyops.cli.main import main
from hyops.model.vocabulary import Outcome
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.evidence import APPROVER
from takeover_kit import BOB, GENERATION, SOURCE, Survivor, later, order_for, said

pytestmark = [pytest.mark.req("INV-9")]
AT = later(EPOCH, 60)
ORDER = order_for(EPOCH)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Survivor:
    """A runner on the day of the loss, with seed keys where its files would name real ones."""
    made = Survivor(tmp_path, FakeClock(AT))
    asyncio.run(made.lease.initialise("pg", GENERATION, SOURCE))
    made.hold(ORDER)
    monkeypatch.setattr(compose_takeover, "runner_takeover", lambda config: made.take())
    return made


def _words(runner: Survivor, tmp_path: Path, *more: str) -> list[str]:
    words = ["takeover", "run", "--config", str(runner.config.source), "--by", APPROVER, "--reason", "both are gone"]
    for paper in said(ORDER, AT, APPROVER, BOB):
        (tmp_path / paper.name).write_bytes(paper.data)
        words += ["--approval", str(tmp_path / paper.name)]
    return [*words, *more]


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.SUCCEEDED, 0), (Outcome.FAILED, 20), (Outcome.UNKNOWN, 23)], ids=str
)
@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
def test_no_follow_ends_as_the_run_did_where_it_has_ended(
    runner: Survivor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    outcome: Outcome,
    code: int,
    json_too: list[str],
) -> None:
    """Just begun it ends 0; a run that is over says how it ended, with its exit code, as following it would."""
    assert main(_words(runner, tmp_path, "--no-follow", *json_too)) == 0
    begun = capsys.readouterr().out
    (spec,) = runner.started
    runner.ended(spec, outcome, code, generation_after=GENERATION + 1)

    assert main(_words(runner, tmp_path, "--no-follow", *json_too)) == code
    ended = capsys.readouterr().out
    assert spec.run_id in begun
    assert str(outcome) not in begun
    if json_too:
        assert (json.loads(ended)["outcome"], json.loads(ended)["exit_code"]) == (str(outcome), code)
    else:
        assert f"{spec.run_id}: {outcome}" in ended
