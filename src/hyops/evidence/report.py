"""One self-contained HTML page about a switch: no script, no outside resource, every value escaped (EVD-3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from hyops._version import __version__
from hyops.evidence import timeline
from hyops.evidence.contents import Contents
from hyops.evidence.summary import Summary, Tone, span, summarise
from hyops.evidence.verify import Verified
from hyops.model.base import iso_utc
from hyops.model.evidence import Verdict
from hyops.model.words import shown

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TONES: dict[Verdict, Tone] = {"met": "good", "missed": "bad", "unproven": "warn", "no-objective": "plain"}


def page(found: Contents, verified: Verified | None) -> str:
    """The report as HTML; without `verified` it says that nobody checked the evidence it shows."""
    summary = summarise(found)
    css = files("hyops.evidence").joinpath("report.css").read_text(encoding="utf-8")
    body = "".join(
        (
            _head(summary, verified),
            _tiles(summary),
            timeline_section(summary),
            f'<div class="pair">{_phases(summary)}{_fence(summary)}</div>',
            f'<div class="pair">{_approvals(summary)}{_endpoints(summary)}</div>',
            _access(summary),
            _controls(summary),
            _digests(summary, verified),
            _raw(found),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_text(summary.headline)} · hyops evidence</title><style>{css}</style></head>"
        f"<body><main>{body}<footer>Made by hyops {__version__} from the bundle alone. Verify it yourself: "
        "<code>hyops evidence verify BUNDLE --keys trusted_keys.json --allowed-signers allowed_signers</code>"
        "</footer></main></body></html>\n"
    )


def as_json(found: Contents, verified: Verified | None) -> dict[str, Any]:
    """The same content for programs."""
    s = summarise(found)
    return {
        "schema": "hyops/evidence-report/v1",
        "bundle": s.name,
        "service": s.service,
        "headline": s.headline,
        "verdict": s.verdict,
        "reason": s.reason,
        "verified": verified is not None,
        "head": verified.head if verified else None,
        "records": len(found.links),
        "remarks": list(verified.remarks) if verified else [],
        "occasion": s.occasion,
        "generation": list(s.generation) if s.generation else None,
        "actuals": s.actuals.body() if s.actuals else None,
        "loss": s.loss.body() if s.loss else None,
        "receipts": [receipt.body() for receipt in s.receipts],
        "approvals": [approval.body() for approval in s.approvals],
        "endpoints": s.endpoints,
        "access": s.access.body() if s.access else None,
        "timeline": [
            {
                "lane": event.lane,
                "start": iso_utc(event.start),
                "end": iso_utc(event.end) if event.end else None,
                "label": event.label,
                "tone": event.tone,
            }
            for event in s.events
        ],
        "controls": [{"rule": c.rule, "statement": c.statement, "records": list(c.seqs)} for c in s.controls],
        "digests": dict(s.digests),
    }


def _head(s: Summary, verified: Verified | None) -> str:
    when = iso_utc(s.origin)[:19].replace("T", " ") + " UTC" if s.origin else ""
    proof = (
        _pill("good", f"evidence verified: {verified.records} records")
        if verified
        else _pill("warn", "evidence not verified on this page")
    )
    occasion = _pill("plain", s.occasion) if s.occasion else ""
    reason = f"<p>{_text(s.reason)}</p>" if s.reason else ""
    remarks = "".join(f'<p class="soft">Note: {_text(text)}</p>' for text in verified.remarks) if verified else ""
    return (
        f'<header><p class="eyebrow">hyops evidence · {_text(s.name)} · {when}</p><h1>{_text(s.headline)}</h1>'
        f"<p>{_pill(s.tone, s.verdict)}{proof}{occasion}</p>{reason}{remarks}</header>"
    )


def _tiles(s: Summary) -> str:
    tiles: list[str] = []
    if s.actuals is not None:
        a = s.actuals
        tone, goal = _TONES[a.rto], a.objectives.rto_s
        note = f"objective {span(goal)}: {a.rto}" if goal is not None else "no objective set"
        least = a.rta_at_least_s
        if least is not None and a.rta_s is not None and a.rta_s - least > 0.5:
            note += f"; as one clock shows it, no less than {span(least)}"
        meter = _meter(a.rta_s / goal, tone) if goal and a.rta_s is not None else ""
        tiles.append(_tile("Recovery time (RTA)", span(a.rta_s), tone, meter, note))
    if s.loss is not None:
        n = s.loss
        doubt = f", {n.in_doubt} in doubt" if n.in_doubt else ""
        tone = "good" if n.lost == 0 else "bad" if s.actuals and s.actuals.rpo == "missed" else "warn"
        rpa = f"; {span(n.rpa_s)} of commits" if n.rpa_s is not None else ""
        note = f"{n.acknowledged:,} acknowledged, {n.surviving:,} surviving{doubt} ({n.how}{rpa})"
        tiles.append(_tile("Rows lost", f"{n.lost:,}", tone, "", note))
    for receipt in s.receipts:
        seen = f"{receipt.host} can no longer write under generation {receipt.generation}"
        tone = "warn" if receipt.receipt_class in {"attested", "break-glass"} else "good"
        tiles.append(_tile("Fence receipt", str(receipt.receipt_class), tone, "", seen))
    if s.generation is not None:
        before, after = s.generation
        tiles.append(_tile("Generation", f"{before} → {after}", "plain", "", "older actors are refused"))
    if s.loss is not None and s.loss.client_gap_s is not None:
        tiles.append(_tile("Client gap", span(s.loss.client_gap_s), "plain", "", "longest time without a write"))
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def timeline_section(s: Summary) -> str:
    """The picture of what happened when, with what its zero is."""
    if s.origin is None:
        return ""
    rta = f"RTA {span(s.actuals.rta_s)}" if s.actuals and s.actuals.rta_s is not None else ""
    picture = timeline.svg(s.events, s.origin, s.served_at, rta)
    zero = "the first failed signal" if s.failed else "the moment it was dispatched"
    return (
        f'<section><h2>What happened</h2><div class="scroll">{picture}</div><p class="soft">Zero is {zero}. '
        "Each mark stands where its own host's clock put it; the recovery time is computed from differences on one "
        "clock only.</p></section>"
    )


def _phases(s: Summary) -> str:
    if s.actuals is None:
        return ""
    rows = [*s.actuals.control_s.items(), *((f"run: {name}", value) for name, value in s.actuals.phases_s.items())]
    longest = max((value for _, value in rows), default=0.0) or 1.0
    body = _rows(
        f'<td class="{"sub" if name.startswith("run: ") else ""}">{_text(name.removeprefix("run: "))}</td>'
        f'<td class="num">{span(value)}</td><td class="wide">{_meter(value / longest, "plain")}</td>'
        for name, value in _in_order(rows)
    )
    return f"<section><h2>Where the time went</h2><table>{body}</table></section>"


def _in_order(rows: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    order = ["detect and decide", "dispatch", "approve", "start", "run and collect"]
    phases = ["validate-access", "prepare", "data", "secrets", "workloads", "traffic", "backup", "evidence"]
    order += [f"run: {phase}" for phase in phases]
    return sorted(rows, key=lambda row: order.index(row[0]) if row[0] in order else len(order))


def _fence(s: Summary) -> str:
    parts: list[str] = []
    for receipt in s.receipts:
        margin = f", margin {span(receipt.margin_s)}".replace(" ", "&nbsp;") if receipt.margin_s is not None else ""
        parts.append(
            f"<p>{_pill('plain', receipt.receipt_class)} <b>{_text(receipt.host)}</b>, generation "
            f"{receipt.generation} → {receipt.next_generation}{margin.replace(',&nbsp;', ', ')}</p>"
        )
        for seen in receipt.observations:
            parts.append(
                f'<div class="seen">{_text(seen.saw)}<br><span class="soft">{_text(seen.by)} · {_text(seen.how)} · '
                f"{iso_utc(seen.at)[11:23]}</span></div>"
            )
        if receipt.limits:
            parts.append(f'<p class="soft">Limits: {_text(receipt.limits)}</p>')
    text = "".join(parts) or '<p class="soft">No fence receipt: no generation was ended.</p>'
    return f"<section><h2>Why the old primary cannot write</h2>{text}</section>"


def _approvals(s: Summary) -> str:
    rows = _rows(
        f"<td>{_text(a.statement.approver)}</td><td>{_text(a.statement.verdict)}</td>"
        f"<td>{_text(a.statement.note or a.statement.accepted_loss or '')}</td>"
        f'<td class="num">{iso_utc(a.statement.signed_at)[11:23]}</td>'
        for a in s.approvals
    )
    head = "<tr><th>Who<th>Verdict<th>Note<th>Signed</tr>"
    table = f"<table>{head}{rows}</table>" if rows else '<p class="soft">None in this bundle.</p>'
    return f"<section><h2>Approvals</h2>{table}</section>"


def _access(s: Summary) -> str:
    if s.access is None:
        return ""
    through = f", through {_text(', '.join(s.access.through))}" if s.access.through else ""
    rows = _rows(
        f"<td>{_text(c.prerequisite)}</td><td>{_text(c.subject)}</td><td>{_text(c.seen)}</td>" for c in s.access.checks
    )
    table = f"<table><tr><th>Prerequisite<th>Of<th>Seen</tr>{rows}</table>" if rows else ""
    limits = f'<p class="soft">Not seen: {_text("; ".join(s.access.limits))}</p>' if s.access.limits else ""
    head = f"<p>{_pill('plain', s.access.plane)}{through}</p>"
    return f"<section><h2>How the targets were reached</h2>{head}{table}{limits}</section>"


def _endpoints(s: Summary) -> str:
    rows = _rows(
        f"<td><code>{_text(name)}</code></td><td>{_text(_plain(value))}</td>" for name, value in s.endpoints.items()
    )
    table = f"<table><tr><th>Name<th>Now</tr>{rows}</table>"
    return (
        f"<section><h2>Endpoints</h2>{table if s.endpoints else '<p class=soft>No endpoint was moved.</p>'}</section>"
    )


def _controls(s: Summary) -> str:
    rows = _rows(f"<td><b>{c.rule}</b></td><td>{_text(c.statement)}</td><td>{_links(c.seqs)}</td>" for c in s.controls)
    head = "<tr><th>Rule<th>What it says<th>Records that show it</tr>"
    return f"<section><h2>Controls</h2><table>{head}{rows}</table></section>"


def _links(seqs: Sequence[int]) -> str:
    links = " ".join(f'<a href="#r{seq}">{seq}</a>' for seq in seqs[:14])
    return links or '<span class="soft">nothing in this bundle</span>'


def _digests(s: Summary, verified: Verified | None) -> str:
    rows = _rows(f"<td>{_text(name)}</td><td><code>{_text(digest)}</code></td>" for name, digest in s.digests)
    note = "" if verified else '<p class="soft">Not verified here: the digests are what the bundle says.</p>'
    return f"<section><h2>Digests</h2><table>{rows}</table>{note}</section>"


def _raw(found: Contents) -> str:
    items = "".join(
        f'<details id="r{link.entry.seq}"><summary>{link.entry.seq} · {_text(link.entry.kind)}<span class="soft">'
        f"{_text(link.name)} · {iso_utc(link.entry.at)[11:23]}</span></summary><pre>"
        f"{_lines(json.dumps(link.entry.content, indent=2, ensure_ascii=False, sort_keys=True))}</pre></details>"
        for link in found.links
    )
    return f'<section class="raw"><h2>All {len(found.links)} records</h2>{items}</section>'


def _tile(what: str, figure: str, tone: str, meter: str, note: str) -> str:
    return (
        f'<div class="tile"><div class="what">{_text(what)}</div><div class="figure {tone}">{_text(figure)}</div>'
        f'{meter}<div class="note">{_text(note)}</div></div>'
    )


def _meter(share: float, tone: str) -> str:
    return f'<div class="meter"><i class="{tone}" style="width:{max(1.0, min(100.0, 100 * share)):.1f}%"></i></div>'


def _pill(tone: str, text: str) -> str:
    return f'<span class="pill {tone}">{_text(str(text))}</span>'


def _rows(cells: Iterable[str]) -> str:
    return "".join(f"<tr>{row}</tr>" for row in cells)


def _text(text: str) -> str:
    """What a record says, as it may stand in a page: it makes no element, and turns nothing that stands beside it."""
    return escape(shown(text, len(text)))


def _lines(text: str) -> str:
    return "\n".join(_text(line) for line in text.split("\n"))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value)
