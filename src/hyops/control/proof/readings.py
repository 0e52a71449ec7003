"""What a look's value means, and whether the thresholds read it so (DEC-3, DEC-4).

The table speaks of `ok` and `bad`, whatever value makes them so. Here the values come from the looks themselves: what
each measure says when all is well, and what it says of a loss. Of a query of Prometheus and of a file nobody but its
author knows that, so `readings` shows from which value on they are ok.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hyops.control.proof.rules import Finding
from hyops.control.proof.situation import NOW
from hyops.control.window import judged
from hyops.model.policy import SERVER_FAILS, ServicePolicy, Signal
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus

WAL_FRESH_S = 0.1  # one round trip and one late timer: no newest message can be counted on to be younger
NO_RECEIVER_S = 86400.0  # what the look says when nothing streams
FAR_BEHIND_BYTES = 2.0**40  # 1 TiB: at 100 MB/s it is replayed for three hours, and nothing is recovered by then


@dataclass(frozen=True)
class Values:
    """What a look says when all is well and of a loss. `bad` None: it says nothing then."""

    well: float
    bad: float | None


YES_OR_NO = Values(1.0, 0.0)
OF_PRIMARY = {
    "primary": YES_OR_NO,
    "standby": Values(0.0, 0.0),  # it is none while it is well, and a failed look is 0 too
    "wal_received": Values(NO_RECEIVER_S, 0.0),  # a primary receives none
    "lag_bytes": Values(0.0, 0.0),
}
OF_TARGET = {
    "primary": Values(0.0, 1.0),
    "standby": YES_OR_NO,
    "wal_received": Values(WAL_FRESH_S, NO_RECEIVER_S),
    "lag_bytes": Values(0.0, FAR_BEHIND_BYTES),
    "dns": Values(0.0, None),  # the name leads to the primary as long as all is well
}
ALIKE = {"tcp": YES_OR_NO, "dns": YES_OR_NO, "http": YES_OR_NO, "alertmanager": YES_OR_NO}


def asked_of(signal: Signal) -> str:
    """What a signal asks, as people write it: its source, with the measure where there are several."""
    return f"{signal.source} {signal.measure}" if signal.source == "postgresql" else signal.source


def values_of(signal: Signal) -> Values | None:
    """What its look says; None where only the policy's author knows, or where it is about pressure."""
    known = {"primary": OF_PRIMARY, "target": OF_TARGET}.get(signal.about)
    asked = signal.measure if signal.source == "postgresql" else signal.source
    return None if known is None else {**ALIKE, **known}.get(asked)


def misread(policy: ServicePolicy) -> Iterator[Finding]:
    """Every signal whose thresholds take well for bad, or a loss for ok, whatever it was before."""
    for index, signal in enumerate(policy.signals):
        yield from _failing(index, signal)
        values = values_of(signal)
        if values is None:
            continue
        where, read = ("signals", index, _key(signal, values)), f"{signal.name} ({_line(signal)})"
        if CheckStatus.BAD in _said(signal, values.well):
            text = f"{read}: {values.well:g} is what {asked_of(signal)} says while all is well, and is bad"
            yield Finding("signal/well-is-bad", where, text, {signal.name: f"{values.well:g}: all is well"})
        if values.bad is not None and CheckStatus.OK in _said(signal, values.bad):
            text = f"{read}: {values.bad:g} is what {asked_of(signal)} says of a loss, and is ok"
            yield Finding(
                "signal/lost-is-ok", where, text, {signal.name: f"{values.bad:g}: the {signal.about} is lost"}
            )


def _failing(index: int, signal: Signal) -> Iterator[Finding]:
    """What a failing server says is expected, and no words that it would not say."""
    heard = signal.about == "target" or (signal.about == "primary" and signal.weight > 0)
    if signal.expect is None or not heard or (signal.expect.contains or "").strip():
        return
    if failures := sorted({status for status in signal.expect.status if status >= SERVER_FAILS}):
        told = ", ".join(map(str, failures[:3])) + (", ..." if len(failures) > 3 else "")
        text = f"{signal.name} (expect.status {told}): what a server says when it fails is ok, whatever else it says"
        where = ("signals", index, "expect", "status")
        yield Finding("signal/failure-is-ok", where, text, {signal.name: f"HTTP {failures[0]}: the database is gone"})


def readings(policy: ServicePolicy) -> list[tuple[str, str, str]]:
    """Of every signal its name, what it asks, and how the values are read."""
    found = []
    for signal in policy.signals:
        said = f"ok {_line(signal)}"
        if values_of(signal) == YES_OR_NO:
            said = ", ".join(f"{value:g} is {_word(signal, value)}" for value in (1.0, 0.0))
        found.append((signal.name, asked_of(signal), said))
    return found


def _said(signal: Signal, value: float) -> set[CheckStatus]:
    """What the real thresholds say of one value, whatever was before it."""
    sample = Sample(vantage="table", signal=signal.name, sequence=1, taken_at=NOW, value=value)
    return {judged(sample, signal, known)[0] for known in (None, CheckStatus.OK, CheckStatus.BAD)}


def _word(signal: Signal, value: float) -> str:
    return " or ".join(sorted(map(str, _said(signal, value))))


def _line(signal: Signal) -> str:
    """The thresholds as they stand: `gte 1`, `lte 16000000, leave 4000000`."""
    leave = "" if signal.leave_threshold is None else f", leave {signal.leave_threshold:.12g}"
    return f"{signal.comparator} {signal.threshold:.12g}{leave}"


def _key(signal: Signal, values: Values) -> str:
    """The key to look at: what asks the wrong thing, what looks the wrong way, or the number."""
    if signal.source == "postgresql" and signal.about == "primary" and signal.measure != "primary":
        return "query"
    if values.bad is None:
        return "source"
    if signal.comparator != ("gte" if values.well > values.bad else "lte"):
        return "comparator"
    alone = signal.model_copy(update={"leave_threshold": None})
    good = _said(alone, values.well) == {CheckStatus.OK} and _said(alone, values.bad) == {CheckStatus.BAD}
    return "leave_threshold" if good else "threshold"
