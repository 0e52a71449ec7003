"""A replay in a terminal: one column per stretch of time, the worst of it shown, so that no short loss is missed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from hyops.control.replay import Change, Replay

COLUMNS, NAME = 84, 16
BARS = " ▁▂▃▄▅▆▇█"
STATES = {"sees": ("─", "green"), "none": ("·", "dim"), "lost": ("▒", "yellow"), "confirmed": ("█", "red")}
"""From good to worst."""


def plot(told: Replay) -> Iterator[Text]:
    """Lines of a fixed width: confidence, each vantage point, decisions, time."""
    from rich.text import Text

    from hyops.control.replay_plot import clock, tone_of

    least = told.policy.confidence_min
    line = Text(f"{'confidence':>{NAME}} ")
    for values in _columns(told, told.confidence):
        top = max((float(value) for value in values), default=0.0)
        line.append(BARS[round(top * (len(BARS) - 1))], style="red" if top >= least else "yellow")
    yield line
    order = list(STATES)
    for vantage, track in sorted(told.tracks.items()):
        line = Text(f"{vantage[:NAME]:>{NAME}} ")
        for values in _columns(told, track):
            worst = max((str(value) for value in values), key=order.index, default="none")
            line.append(STATES[worst][0], style=STATES[worst][1])
        yield line
    marks: dict[int, tuple[str, str]] = {}
    for made in told.made:
        tone = tone_of(made)
        if tone == "bad" or _column(told, made.at_s) not in marks:
            letter = {"bad": "▲", "warn": "△", "plain": "h"}[tone]
            marks[_column(told, made.at_s)] = (letter, {"bad": "bold red", "warn": "yellow", "plain": "cyan"}[tone])
    line = Text(f"{'decisions':>{NAME}} ")
    for number in range(COLUMNS):
        line.append(*marks.get(number, (" ", "")))
    yield line
    began, ended = clock(told.began_s), clock(told.ended_s)
    yield Text(f"{'':{NAME}} {began}{ended:>{COLUMNS - len(began)}}", style="dim")
    yield Text(f"{'':{NAME}} ─ sees it  ▒ lost  █ confirmed  · nothing to say  ▲ switch  △ denied  h hold", style="dim")


def _column(told: Replay, at_s: float) -> int:
    length_s = max(told.ended_s - told.began_s, 1e-9)
    return min(int((at_s - told.began_s) / length_s * COLUMNS), COLUMNS - 1)


def _columns(told: Replay, track: Sequence[Change]) -> list[list[str | float]]:
    """All values that a column's time had."""
    from hyops.control.replay import Change

    found: list[list[str | float]] = [[] for _ in range(COLUMNS)]
    for one, after in pairwise([*track, Change(told.ended_s, "")]):
        for number in range(_column(told, one.at_s), _column(told, after.at_s) + 1):
            found[number].append(one.value)
    return found
