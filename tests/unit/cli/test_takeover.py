"""`hyops takeover` at a runner: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyops import compose_takeover
from hyops.cli.main import main
from hyops.model.approval import ApprovalStatement
from hyops.model.vocabulary import Outcome, RequestStatus
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.evidence import APPROVER
from takeover_kit import BOB, GENERATION, SOURCE, Survivor, later, order_for, resigned, said

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


@pytest.mark.req("UX-1", "INV-8")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--valid-for", "nan"], "'nan' is no length of time"),
        (["--valid-for", "1e30"], "--valid-for"),
        (["--valid-for", "-5"], "--valid-for"),
        (["--valid-for", "0"], "--valid-for"),
        (["--statement", ""], "the approver's name: 0 characters"),
        (["--statement", "a" * 257], "the approver's name: 257 characters"),
        (["--statement", "a\udcff"], "the approver's name: character 2 is no UTF-8"),
    ],
    ids=str,
)
def test_a_statement_that_nobody_could_sign_is_a_usage_error(
    runner: Survivor, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    """A time that is none, a name that is none: exit 2 with the option, nothing on stdout to be signed."""
    runner.hold(order_for(datetime.now(UTC)))

    assert main(["takeover", "show", "--config", str(runner.config.source), "--statement", "bob", *words]) == 2
    told = capsys.readouterr()
    assert (told.out, named in told.err) == ("", True), told.err


@pytest.mark.req("UX-1", "LOOP-2")
def test_of_an_order_that_has_expired_there_is_nothing_to_sign(
    runner: Survivor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused with when that was and what time it is here; of one that stands the bytes are printed."""
    words = ["takeover", "show", "--config", str(runner.config.source), "--statement", "bob"]
    assert main(words) == 13
    told = capsys.readouterr()
    assert (told.out, "expired at 2026-02-14T12:00:00Z, and here it is" in told.err) == ("", True), told.err

    (runner.folders.orders / f"{ORDER.order_id}.json").unlink()
    runner.hold(order_for(datetime.now(UTC)))
    assert main(words) == 0
    assert ApprovalStatement.read(capsys.readouterr().out.encode()).approver == "bob"


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("option", ["--reason", "--by"])
def test_what_is_typed_and_is_no_text_begins_nothing(
    runner: Survivor, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """Half a character of another encoding cannot be signed: a usage error that names the option."""
    assert main(_words(runner, tmp_path, option, "a\udcff")) == 2
    assert f"{option}: character 2 is no UTF-8" in capsys.readouterr().err
    assert runner.started == []


EVIL = "gone\x1b[2J\x1b]0;owned\x07\u202e\x9b1mand\nrequest   sha256:0000"


@pytest.mark.req("INV-8")
@pytest.mark.parametrize("words", [["list"], ["show"], ["run", "--by", "a", "--reason", "b"]], ids=lambda w: w[0])
def test_the_text_of_an_order_does_not_speak_to_the_terminal(
    runner: Survivor, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Escapes, another order of reading and a line of its own are written out, in what is shown and in a refusal."""
    (runner.folders.orders / f"{ORDER.order_id}.json").unlink()
    runner.plant(
        resigned(ORDER, "request", rationale=EVIL, status=RequestStatus.DENIED, reason=EVIL) if words != ["show"]
        else resigned(ORDER, "request", rationale=EVIL)
    )  # fmt: skip

    main(["takeover", *words, "--config", str(runner.config.source)])
    both = "".join(capsys.readouterr())
    assert "owned" in both
    assert all(c.isprintable() or c == "\n" for c in both)
    assert "\nrequest   sha256:0000" not in both


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("words", [["list"], ["show"], ["run", "--by", "a", "--reason", "b"]], ids=lambda w: w[0])
def test_on_a_host_that_is_no_runner_it_says_where_it_is_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """No runner's file: a missing prerequisite, not a key to be mended; an unreadable one is still named as that."""
    missing = tmp_path / "runner.json"
    assert main(["takeover", *words, "--config", str(missing)]) == 12
    told = capsys.readouterr().err
    assert all(text in told for text in (str(missing), "typed on one", "hyops takeover status"))
    assert "named key" not in told

    missing.write_text("{")
    assert main(["takeover", *words, "--config", str(missing)]) == 11
