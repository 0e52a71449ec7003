"""The timeline as SVG: one lane a place, labels that never overlap, long silences folded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import pairwise

from hyops.evidence.summary import LANES, Event, Lane, span

WIDTH, LEFT, RIGHT = 1120.0, 96.0, 16.0
ROW, LANE_PAD, TOP, FOOT = 21.0, 9.0, 46.0, 30.0
CHAR = 6.5  # width of a character of the label font, measured generously so that labels never touch
FOLD_SHARE = 0.18  # an empty stretch longer than this share of the rest is drawn as a fold
FOLD_WIDTH = 46.0
FOLD_MIN_S = 30.0


@dataclass(frozen=True)
class Axis:
    """Seconds since the origin to x, with the long silences folded."""

    knots: Sequence[tuple[float, float]]
    folds: Sequence[tuple[float, float]]

    def x(self, second: float) -> float:
        """Where a second stands."""
        before = self.knots[0]
        for knot in self.knots[1:]:
            if second <= knot[0]:
                share = (second - before[0]) / (knot[0] - before[0]) if knot[0] > before[0] else 0.0
                return before[1] + share * (knot[1] - before[1])
            before = knot
        return before[1]


def axis(seconds: Sequence[float], busy: Sequence[tuple[float, float]]) -> Axis:
    """Fold where nothing happens for long: neither a point of `seconds` nor a stretch of `busy`."""
    points = sorted(set(seconds))
    folds: list[tuple[float, float]] = []
    shown = points[-1] - points[0]
    for start, end in sorted(pairwise(points), key=lambda gap: gap[0] - gap[1]):
        rest = shown - (end - start)
        if end - start > FOLD_MIN_S and end - start > FOLD_SHARE * rest and not _inside((start, end), busy):
            inset = min(0.08 * rest, 0.2 * (end - start))
            folds.append((start + inset, end - inset))
            shown -= end - start - 2 * inset
    folds.sort()
    pad = max(0.04 * shown, 0.05)
    points = [points[0] - pad, *points, points[-1] + pad]
    scale = (WIDTH - LEFT - RIGHT - FOLD_WIDTH * len(folds)) / (shown + 2 * pad)
    knots = [(points[0], LEFT)]
    for start, end in folds:
        x = knots[-1][1] + (start - knots[-1][0]) * scale
        knots += [(start, x), (end, x + FOLD_WIDTH)]
    knots.append((points[-1], knots[-1][1] + (points[-1] - knots[-1][0]) * scale))
    return Axis(knots, folds)


def _inside(gap: tuple[float, float], busy: Sequence[tuple[float, float]]) -> bool:
    return any(start < gap[1] and end > gap[0] and end - start < FOLD_MIN_S for start, end in busy)


def svg(events: Sequence[Event], origin: datetime, served_at: datetime | None, rta: str) -> str:
    """The picture; an empty string when there is nothing to draw."""
    if not events:
        return ""
    at: Callable[[datetime], float] = lambda moment: (moment - origin).total_seconds()  # noqa: E731
    seconds = [0.0, *(at(e.start) for e in events), *(at(e.end) for e in events if e.end)]
    scale = axis(seconds, [(at(e.start), at(e.end)) for e in events if e.end])
    parts: list[str] = []
    y = TOP
    for lane in LANES:
        if not (here := [e for e in events if e.lane == lane]):
            continue
        body, height = _lane(lane, here, scale, at, y)
        parts.append(body)
        y += height
    grid = _grid(scale, y)
    band = _band(scale, at(served_at), rta, y) if served_at is not None else ""
    label = "Timeline of the switch, one lane per place"
    return (
        f'<svg class="timeline" viewBox="0 0 {WIDTH:.0f} {y + FOOT:.0f}" role="img" aria-label="{label}">'
        f"{_HATCH}{band}{grid}{''.join(parts)}</svg>"
    )


_HATCH = (
    '<defs><pattern id="fold" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line x1="0" y1="0" x2="0" y2="7" class="hatch"/></pattern></defs>'
)


def _band(scale: Axis, served: float, rta: str, bottom: float) -> str:
    left, right = scale.x(0.0), scale.x(served)
    middle = (left + right) / 2
    return (
        f'<rect class="band" x="{left:.1f}" y="20" width="{max(right - left, 1):.1f}" height="{bottom - 20:.1f}"/>'
        f'<path class="span" d="M{left:.1f} 32V20M{left:.1f} 26H{right:.1f}M{right:.1f} 32V20"/>'
        f'<text class="rta" x="{middle:.1f}" y="15" text-anchor="middle">{escape(rta)}</text>'
    )


def _grid(scale: Axis, bottom: float) -> str:
    parts: list[str] = []
    last = -1e9
    for second in _ticks(scale):
        x = scale.x(second)
        if x - last < 44 or x > WIDTH - RIGHT:
            continue
        last = x
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="38" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{_tick(second)}</text>'
        )
    for start, end in scale.folds:
        x, width = scale.x(start), scale.x(end) - scale.x(start)
        middle = x + width / 2
        parts.append(f'<rect class="fold" x="{x:.1f}" y="38" width="{width:.1f}" height="{bottom - 38:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{middle:.1f}" y="{bottom + 27:.1f}" text-anchor="middle">{span(end - start)}</text>'
        )
    return "".join(parts)


def _ticks(scale: Axis) -> list[float]:
    first, last = scale.knots[0][0], scale.knots[-1][0]
    shown = last - first - sum(b - a for a, b in scale.folds)
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 3600) if shown / s <= 14), 3600.0 * 6)
    ticks: list[float] = []
    edges = [first, *(e for fold in scale.folds for e in fold), last]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        number = int(-(-start // step))
        while number * step <= end and len(ticks) < 400:
            ticks.append(round(number * step, 3))
            number += 1
    return ticks


def _tick(second: float) -> str:
    if abs(second) >= 60:
        return f"{'-' if second < 0 else '+'}{int(abs(second)) // 60}:{abs(second) % 60:04.1f}"
    return "0 s" if second == 0 else f"{second:+g} s"


def _lane(
    lane: Lane, events: Sequence[Event], scale: Axis, at: Callable[[datetime], float], top: float
) -> tuple[str, float]:
    rows: list[float] = []
    parts: list[str] = []
    for event in events:
        x = scale.x(at(event.start))
        end = scale.x(at(event.end)) if event.end else x
        width = len(event.label) * CHAR
        inside = event.end is not None and end - x > width + 12
        flip = not inside and max(end, x) + 9 + width > WIDTH - RIGHT
        left = x - 11 - width if flip else x - 6
        right = max(end, x) + 6 if inside or flip else max(end, x) + 9 + width
        row = next((i for i, used in enumerate(rows) if used + 5 <= left), len(rows))
        if row == len(rows):
            rows.append(right)
        rows[row] = right
        parts.append(_shape(event, x, end, top + LANE_PAD + row * ROW, inside, flip))
    height = max(len(rows), 1) * ROW + 2 * LANE_PAD
    middle = top + height / 2 + 4
    return (
        f'<g><rect class="lane" x="0" y="{top:.1f}" width="{WIDTH:.0f}" height="{height:.1f}"/>'
        f'<text class="name" x="10" y="{middle:.1f}">{_NAMES[lane]}</text>{"".join(parts)}</g>',
        height,
    )


_NAMES = {
    "signals": "Signals",
    "control": "Control",
    "runner": "Runner",
    "database": "Database",
    "dns": "DNS",
    "client": "Client",
}


def _shape(event: Event, x: float, end: float, y: float, inside: bool, flip: bool) -> str:
    middle, text = y + ROW / 2, escape(event.label)
    title = f"<title>{text} · {event.start.isoformat()}</title>"
    if event.end is None:
        shape = f'<circle class="dot {event.tone}" cx="{x:.1f}" cy="{middle:.1f}" r="5"/>'
    else:
        width = max(end - x, 3.0)
        size = f'x="{x:.1f}" y="{y + 2:.1f}" width="{width:.1f}" height="{ROW - 4}"'
        shape = f'<rect class="bar {event.tone}" {size} rx="4"/>'
    if inside:
        place = f'class="in" x="{x + 7:.1f}"'
    elif flip:
        place = f'class="out" x="{x - 9:.1f}" text-anchor="end"'
    else:
        place = f'class="out" x="{max(end, x) + 9:.1f}"'
    return f'<g>{title}{shape}<text {place} y="{middle + 4:.1f}">{text}</text></g>'
