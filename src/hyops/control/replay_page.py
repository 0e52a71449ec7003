"""One self-contained HTML page about a replay, or two of one recording: no script, nothing from outside (DEC-5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from hyops._version import __version__
from hyops.control.replay import Made, Replay
from hyops.control.replay_plot import Chart, clock, duration, tone_of
from hyops.model.vocabulary import DecisionType

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
INCIDENTS_MAX = 20
ROWS_MAX = 500
PAD_LEAST_S = 3.0
KEY = (
    ("good", "sees the primary"),
    ("warn", "lost, not yet confirmed"),
    ("bad", "lost and confirmed"),
    ("gap", "nothing to say: no samples, unwell, or unknown"),
    ("window", "confirm window of a quorum"),
)


@dataclass(frozen=True)
class Named:
    """A replay and what its policy is called on the page."""

    name: str
    told: Replay


def incidents(replays: Sequence[Replay]) -> list[tuple[float, float]]:
    """The stretches in which something was lost or decided, with some time around them; near ones are one."""
    pad_s = max(PAD_LEAST_S, *(2 * told.policy.confirm_for_s for told in replays))
    spans = [(a, b) for told in replays for a, b, _ in told.windows()]
    spans += [(made.at_s, made.at_s) for told in replays for made in told.made]
    found: list[tuple[float, float]] = []
    for since_s, until_s in sorted((a - pad_s, b + pad_s) for a, b in spans):
        if found and since_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(until_s, found[-1][1]))
        else:
            found.append((since_s, until_s))
    began_s, ended_s = min(t.began_s for t in replays), max(t.ended_s for t in replays)
    return [(max(a, began_s), min(b, ended_s)) for a, b in found]


def headline(told: Replay) -> str:
    """What happened in one line."""
    counts = Counter(made.word for made in told.made)
    said = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    return said or "nothing would have been decided"


def page(replays: Sequence[Named]) -> str:
    """The page; the same replays give the same bytes."""
    first = replays[0].told
    css = files("hyops.evidence").joinpath("report.css").read_text(encoding="utf-8")
    css += files("hyops.control").joinpath("replay.css").read_text(encoding="utf-8")
    title = f"{first.policy.service}: {headline(first)}"
    began, length = clock(first.began_s), duration(first.ended_s - first.began_s)
    key = "".join(f'<span><i class="{kind}"></i>{escape(said)}</span>' for kind, said in KEY)
    parts = [
        f'<header><p class="eyebrow">hyops policy simulate · {escape(first.policy.env)} · {began} UTC, {length}</p>',
        f"<h1>{escape(title)}</h1><p>Recorded signals in virtual time. Nobody answers: each decision stands until it ",
        "expires, and the service stays where it is.</p></header>",
        _tiles(replays),
        '<section><h2>All of it</h2><div class="key">',
        f"{key}</div>",
        *(_chart(one, first.began_s, first.ended_s, titled=len(replays) > 1) for one in replays),
        "</section>",
        *_details(replays),
        *(_decisions(one) for one in replays),
        *(_limits(one) for one in replays),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)} · hyops</title><style>{css}</style></head>"
        f"<body><main>{''.join(parts)}<footer>Made by hyops {__version__}.</footer></main></body></html>\n"
    )


def _tiles(replays: Sequence[Named]) -> str:
    tiles = []
    for one in replays:
        told = one.told
        moves = [made for made in told.made if made.decision.decision_type is not DecisionType.HOLD]
        windows = told.windows()
        ended = sum(not confirmed for *_, confirmed in windows)
        gaps = told.gaps()
        worst = max(gaps, key=lambda name: gaps[name], default="")
        note = f"{len(told.made) - len(moves)} holds beside" if told.made else "no hold either"
        tiles.append(_tile(f"{one.name}: switches decided", str(len(moves)), "bad" if moves else "good", note))
        note = f"{ended} ended before they were confirmed"
        tiles.append(_tile(f"{one.name}: losses seen by a quorum", str(len(windows)), "", note))
        note = f"{escape(worst)} had nothing to say" if worst else "no vantage point"
        tiles.append(_tile(f"{one.name}: longest silence", duration(gaps.get(worst, 0.0)), "", note))
        note = f"over {duration(told.ended_s - told.began_s)}"
        tiles.append(_tile(f"{one.name}: samples", f"{told.samples:,}", "", note))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(what: str, figure: str, tone: str, note: str) -> str:
    return (
        f'<div class="tile"><div class="what">{escape(what)}</div><div class="figure {tone}">{escape(figure)}</div>'
        f'<div class="note">{note}</div></div>'
    )


def _chart(one: Named, began_s: float, ended_s: float, *, titled: bool) -> str:
    title = f"<h3>{escape(one.name)}</h3>" if titled else ""
    return f'{title}<div class="scroll">{Chart(one.told, began_s, ended_s).svg()}</div>'


def _details(replays: Sequence[Named]) -> list[str]:
    found = incidents([one.told for one in replays])
    parts = []
    for since_s, until_s in found[:INCIDENTS_MAX]:
        charts = "".join(_chart(one, since_s, until_s, titled=len(replays) > 1) for one in replays)
        head = f"{clock(since_s)} UTC, {duration(until_s - since_s)}"
        parts.append(f"<section><h2>{head}</h2>{charts}</section>")
    if len(found) > INCIDENTS_MAX:
        parts.append(f"<p>{len(found) - INCIDENTS_MAX} more incidents are in the table below alone.</p>")
    return parts


def _decisions(one: Named) -> str:
    rows = "".join(_row(made) for made in one.told.made[:ROWS_MAX])
    more = len(one.told.made) - ROWS_MAX
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    if not rows:
        return f"<section><h2>Decisions of {escape(one.name)}</h2><p>None.</p></section>"
    head = "<tr><th>when (UTC)</th><th>decision</th><th>level</th><th>confidence</th><th>why</th></tr>"
    table = f'<div class="scroll"><table>{head}{rows}</table></div>'
    return f"<section><h2>Decisions of {escape(one.name)}</h2>{table}{rest}</section>"


def _row(made: Made) -> str:
    sure = "" if made.decision.confidence is None else f"{made.decision.confidence:.2f}"
    pill = f'<span class="pill {tone_of(made)}">{escape(made.word)}</span>'
    return (
        f'<tr><td class="mono">{clock(made.at_s, fraction=True)}</td><td>{pill}</td><td>{made.decision.level}</td>'
        f'<td class="num">{sure}</td><td class="wide">{escape(made.decision.rationale)}</td></tr>'
    )


def _limits(one: Named) -> str:
    policy = one.told.policy
    numbers = {
        "quorum": policy.quorum,
        "confidence_min": policy.confidence_min,
        "confirm_for_s": policy.confirm_for_s,
        "stable_for_s": policy.stable_for_s,
        "cooldown_s": policy.cooldown_s,
        "level": policy.level,
    }
    signals = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{s.source}, about the {s.about}</td><td>{escape(', '.join(s.vantages))}</td>"
        f'<td class="num">{"≥" if s.comparator == "gte" else "≤"} {s.threshold:g}</td>'
        f'<td class="num">{"" if s.leave_threshold is None else f"{s.leave_threshold:g}"}</td>'
        f'<td class="num">{s.weight:g}</td></tr>'
        for s in policy.signals
    )
    said = " · ".join(f"{key} {value}" for key, value in numbers.items())
    head = "<tr><th>signal</th><th>from</th><th>vantage points</th><th>good when</th><th>leave</th><th>weight</th></tr>"
    return (
        f'<section><h2>Thresholds of {escape(one.name)}</h2><p class="soft">{escape(said)}</p>'
        f'<div class="scroll"><table>{head}{signals}</table></div></section>'
    )
