"""What a person sees of a run, from its events alone."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hyops.cli.run_view import RunView
from hyops.ports.transport import RunEvent

OPENED = {
    "service": "pg",
    "generation": 7,
    "runner_ref": "cloud-runner",
    "occasion": "unplanned",
    "decision_type": "failover",
    "blueprint_ref": "dr/postgresql-warm-promote@v1",
    "steps": [
        {"id": "fence", "phase": "prepare", "title": "Prove that it takes no writes", "module_ref": "native/fence"},
        {"id": "promote", "phase": "data", "module_ref": "native/postgresql-promote"},
    ],
}


def _event(kind: str, body: dict[str, Any], t: float) -> RunEvent:
    return RunEvent("journal", 0, {"kind": kind, "body": body, "at": "2026-03-14T03:00:07.000000Z", "t": t, "seq": 0})


def _drawn(view: RunView, now_t: float) -> str:
    out = io.StringIO()
    Console(file=out, width=110, no_color=True).print(view.draw(now_t))
    return out.getvalue()


def _until_promote() -> RunView:
    view = RunView("run-1")
    view.take(_event("run-opened", OPENED, 0.0))
    view.take(_event("intent", {"step": "fence"}, 0.1))
    view.take(_event("outcome", {"step": "fence", "outcome": "succeeded", "elapsed_s": 0.9, "outputs": {}}, 1.0))
    view.take(_event("intent", {"step": "promote"}, 1.1))
    return view


@pytest.mark.req("UX-2")
def test_a_running_step_counts_up() -> None:
    """The step under way shows its elapsed time, which moves between two events."""
    view = _until_promote()
    assert "▶" in _drawn(view, 3.4)
    assert "2.30 s" in _drawn(view, 3.4)
    assert "generation 7 " in _drawn(view, 3.4)


@pytest.mark.req("UX-2", "VOC-5")
@pytest.mark.parametrize(
    ("outcome", "word"),
    [("unknown", "UNKNOWN: look before"), ("failed", "FAILED"), ("refused", "nothing was touched"), ("odd", "odd")],
)
def test_an_end_says_plainly_what_it_is(outcome: str, word: str) -> None:
    """Headline, reason and exit code of each ending; steps that never ran say so."""
    view = RunView("run-1")
    view.take(_event("run-opened", OPENED, 0.0))
    told = view.take(_event("run-closed", {"outcome": outcome, "exit_code": 20, "reason": "DNS refused"}, 1.0))
    assert told is not None
    assert word in told
    assert word in _drawn(view, 1.0)
    assert "DNS refused" in _drawn(view, 1.0)
    assert {line.state for line in view.lines.values()} == {"not run"}
    assert view.exit_code == 20


def test_the_generation_moves_when_a_step_moved_it() -> None:
    """The headline shows from which generation to which."""
    view = _until_promote()
    body = {"step": "promote", "outcome": "succeeded", "elapsed_s": 0.1, "outputs": {"generation_after": 8}}
    view.take(_event("outcome", body, 1.2))
    assert "generation 7 → 8" in _drawn(view, 1.2)


def test_plain_lines_tell_the_same() -> None:
    """Without a terminal each event is one line with the run's own time."""
    view = _until_promote()
    body = {"step": "promote", "outcome": "refused", "elapsed_s": 0.1, "reason": "not fenced"}
    assert view.take(_event("outcome", body, 1.2)) == "03:00:07 +  1.200s  ✘ promote: refused in 0.100 s: not fenced"


def test_markup_in_a_step_is_shown_not_obeyed() -> None:
    """Text from a runner is text: brackets are printed, unknown events are ignored."""
    view = RunView("run-1")
    step = {"id": "a", "phase": "prepare", "title": "[bold]x[/bold]"}
    view.take(_event("run-opened", {**OPENED, "steps": [step]}, 0.0))
    view.take(_event("from-the-future", {"x": 1}, 0.0))
    assert "[bold]x[/bold]" in _drawn(view, 0.0)
