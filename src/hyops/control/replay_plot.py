"""A replay as SVG: confidence and its threshold, votes, confirm windows and decisions over time. No script, no font."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from html import escape
from itertools import pairwise

from hyops.control.replay import EPOCH, Change, Made, Replay
from hyops.model.vocabulary import DecisionType, DrMode

WIDTH, LEFT, RIGHT = 1120, 148, 32
PLOT_H, LANE_H, GAP_H, AXIS_H, MARKS_H = 92, 20, 6, 26, 34
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 7 * 86400)
TICKS_MAX = 9
STATES = {"sees": "good", "lost": "warn", "confirmed": "bad", "none": "gap"}
WORDS = {"sees": "sees it", "lost": "lost, confirming", "confirmed": "lost, confirmed", "none": "nothing to say"}


def clock(at_s: float, fraction: bool = False) -> str:
    """`2026-01-31 23:59:59`, UTC."""
    text = (EPOCH + timedelta(seconds=at_s)).strftime("%Y-%m-%d %H:%M:%S.%f")
    return text[:-4] if fraction else text[:-7]


def duration(seconds: float) -> str:
    """`3 d 4 h`, `2 min 5 s`, `1.25 s`: two parts at most."""
    if seconds < 60:
        return f"{round(seconds, 2):g} s"
    parts = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]
    left, told = round(seconds), []
    for size, word in parts:
        if left >= size:
            told.append(f"{left // size} {word}")
            left %= size
    return " ".join(told[:2])


def tone_of(made: Made) -> str:
    """The colour of a decision: what moves the service is `bad`, what is denied or held is not."""
    if made.decision.decision_type is DecisionType.HOLD:
        return "plain"
    return "warn" if made.decision.dr_mode is DrMode.DENY else "bad"


class Chart:
    """One replay between two times."""

    def __init__(self, told: Replay, began_s: float, ended_s: float) -> None:
        self._told, self._began_s, self._ended_s = told, began_s, max(ended_s, began_s + 1e-3)

    def svg(self) -> str:
        """The picture, as wide as `WIDTH` and as high as it has lanes."""
        told, parts = self._told, []
        y = MARKS_H
        windows = [w for w in told.windows() if w[1] > self._began_s and w[0] < self._ended_s]
        lanes = [*((name, track, STATES) for name, track in sorted(told.tracks.items()))]
        height = MARKS_H + PLOT_H + GAP_H + (len(lanes) + 1) * (LANE_H + GAP_H) + AXIS_H
        for since_s, until_s, confirmed in windows:
            kind = "window-bad" if confirmed else "window"
            parts.append(self._rect(since_s, until_s, MARKS_H, height - AXIS_H - MARKS_H, kind, "confirm window"))
        parts += self._grid(height)
        parts += self._confidence(y)
        y += PLOT_H + GAP_H
        for name, track, kinds in lanes:
            parts.append(f'<text class="name" x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
            parts += self._lane(track, y, kinds)
            y += LANE_H + GAP_H
        parts.append(f'<text class="name" x="{LEFT - 10}" y="{y + 14}" text-anchor="end">WAL at the standby</text>')
        parts += self._lane(told.wal, y, {"arrives": "good", "not seen": "quiet"})
        parts += self._decisions(height)
        head = f'<svg class="replay" viewBox="0 0 {WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
        return f"{head}{HATCH}{''.join(parts)}</svg>"

    def _x(self, at_s: float) -> float:
        share = (at_s - self._began_s) / (self._ended_s - self._began_s)
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 2)

    def _rect(self, since_s: float, until_s: float, y: float, height: float, kind: str, said: str) -> str:
        x, end = self._x(since_s), self._x(until_s)
        tip = escape(f"{said}: {clock(since_s, fraction=True)} for {duration(until_s - since_s)}")
        shape = f'x="{x}" y="{y}" width="{max(round(end - x, 2), 1)}" height="{height}"'
        return f'<rect class="{kind}" {shape}><title>{tip}</title></rect>'

    def _spans(self, track: Sequence[Change]) -> Iterator[tuple[float, float, str | float]]:
        """What holds within the picture, cut to it, with neighbours that look the same as they come."""
        for one, after in pairwise([*track, Change(self._told.ended_s, "")]):
            if after.at_s > self._began_s and one.at_s < self._ended_s:
                yield max(one.at_s, self._began_s), min(after.at_s, self._ended_s), one.value

    def _lane(self, track: Sequence[Change], y: float, kinds: dict[str, str]) -> Iterator[str]:
        for since_s, until_s, value in self._spans(track):
            kind = kinds.get(str(value), "quiet")
            yield self._rect(since_s, until_s, y, LANE_H, f"lane {kind}", WORDS.get(str(value), str(value)))

    def _confidence(self, top: float) -> Iterator[str]:
        def height(value: float) -> float:
            return round(top + PLOT_H - 4 - value * (PLOT_H - 12), 2)

        least = self._told.policy.confidence_min
        yield f'<text class="name" x="{LEFT - 10}" y="{top + 14}" text-anchor="end">confidence</text>'
        for line in (height(0.0), height(1.0)):
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{line}" y2="{line}"/>'
        yield f'<line class="least" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height(least)}" y2="{height(least)}"/>'
        at = f'x="{LEFT - 10}" y="{height(least) + 4}" text-anchor="end"'
        yield f'<text class="tick" {at}>at least {least:g}</text>'
        points = []
        for since_s, until_s, value in self._spans(self._told.confidence):
            points += [f"{self._x(since_s)},{height(float(value))}", f"{self._x(until_s)},{height(float(value))}"]
        if points:
            floor = height(0.0)
            first, last = points[0].partition(",")[0], points[-1].partition(",")[0]
            yield f'<polygon class="area" points="{first},{floor} {" ".join(points)} {last},{floor}"/>'
            yield f'<polyline class="line" points="{" ".join(points)}"/>'

    def _grid(self, height: float) -> Iterator[str]:
        length_s = self._ended_s - self._began_s
        step_s = next((step for step in TICKS if length_s / step <= TICKS_MAX), TICKS[-1])
        at_s = -(-self._began_s // step_s) * step_s
        while at_s <= self._ended_s:
            x, base = self._x(at_s), height - AXIS_H
            text = clock(at_s, fraction=step_s < 1)
            text = text[:10] if step_s >= 86400 else text[11:] if length_s < 86400 else text[5:16]
            yield f'<line class="grid" x1="{x}" x2="{x}" y1="{MARKS_H}" y2="{base}"/>'
            yield f'<text class="tick" x="{x}" y="{base + 17}" text-anchor="middle">{text}</text>'
            at_s += step_s

    def _decisions(self, height: float) -> Iterator[str]:
        """A line for each, with a word where there is room for one."""
        free = float(LEFT)
        for made in self._told.made:
            if not self._began_s <= made.at_s <= self._ended_s:
                continue
            x, tone = self._x(made.at_s), tone_of(made)
            tip = escape(f"{made.word} at {clock(made.at_s, fraction=True)}: {made.decision.rationale}")
            yield f'<g class="mark {tone}"><title>{tip}</title>'
            yield f'<line x1="{x}" x2="{x}" y1="{MARKS_H - 8}" y2="{height - AXIS_H}"/>'
            yield f'<path d="M{x - 5} {MARKS_H - 14}h10l-5 8z"/>'
            room = 7.2 * len(made.word)
            if x - room / 2 > free - 4:
                anchor = "end" if x + room / 2 > WIDTH - RIGHT else "middle"
                yield f'<text x="{x}" y="{MARKS_H - 19}" text-anchor="{anchor}">{escape(made.word)}</text>'
                free = x + room / 2 + 6
            yield "</g>"


HATCH = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line class="hatch" x1="0" y1="0" x2="0" y2="7"/></pattern></defs>'
)
