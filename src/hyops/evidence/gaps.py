"""What a bundle may not leave out: of a run, everything that led to it and how it ended (EVD-1).

A bundle of a request that never ran holds nothing of a run, and says so; in between there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

from hyops.evidence.chain import BadRecordError, Fault
from hyops.evidence.contents import Contents
from hyops.model.decision import Decision
from hyops.model.execution import AttemptOutcome
from hyops.model.observed import DecisionInputs
from hyops.model.run import RunResult
from hyops.model.vocabulary import Outcome

FUTURE_MAX_S = 300.0  # an approver's own clock may be ahead of the control host's, as much as the judge allows
OF_A_RUN = {
    "execution",
    "attempt",
    "journal",
    "demotion-receipt",
    "fence-receipt",
    "step",
    "run-result",
    "outcome",
    "loss",
}


def gaps(found: Contents) -> Iterator[BadRecordError]:
    """Every record that is missing, and every stage that says it came before the one it follows from."""
    for rule in (_complete, _proved, _clock):
        yield from rule(found)


def _complete(found: Contents) -> Iterator[BadRecordError]:
    """Of every bundle: what was asked and what was achieved. Of one that tells of a run: all that led to it."""
    end = found.links[-1]
    for kind in ("request", "actuals"):
        if kind not in found.placed:
            yield BadRecordError(Fault.MISSING, end.line, end.name, f"no {kind} stands in the bundle")
    telling = [link for link in found.links if link.entry.kind in OF_A_RUN]
    if not telling:
        return
    first = telling[0]
    for kind in ("decision", "plan", "execution", "attempt", "outcome"):
        if kind not in found.placed:
            what = f"record {first.entry.seq}, {first.name}"
            yield BadRecordError(Fault.MISSING, first.line, what, f"it is of a run, but no {kind} stands in the bundle")
    decision = found.get(Decision)
    if decision is not None and decision.record.inputs_digest is not None and found.get(DecisionInputs) is None:
        yield decision.bad(Fault.MISSING, "the inputs that it was computed from are not in the bundle")


def _proved(found: Contents) -> Iterator[BadRecordError]:
    """An outcome that was proved by a runner's result, as every success is, stands beside that result."""
    outcome = found.get(AttemptOutcome)
    if outcome is None or found.get(RunResult) is not None:
        return
    if outcome.record.outcome is Outcome.SUCCEEDED or outcome.record.journal_head is not None:
        yield outcome.bad(Fault.MISSING, f"it says {outcome.record.outcome}, but no runner's result proves it")


def _clock(found: Contents) -> Iterator[BadRecordError]:
    """The control host's stamps do not go back further than its clock may have been set back."""
    stages = [
        found.placed[kind]
        for kind in ("decision", "request", "execution", "attempt", "outcome")
        if kind in found.placed
    ]
    stamps = [(p.record.timestamp_utc, p) for p in stages if p.record.timestamp_utc and p.record.signature is not None]
    slack = timedelta(seconds=FUTURE_MAX_S)
    for (before, earlier), (at, placed) in pairwise(stamps):
        if at < before - slack:
            yield placed.bad(Fault.CONTRADICTION, f"it was made before {earlier.link.name}, which it follows from")
    opened = found.links[0]
    if stamps and opened.entry.at < stamps[-1][0] - slack:
        why = f"the bundle was written before {stamps[-1][1].link.name}, which is in it"
        yield BadRecordError(Fault.CONTRADICTION, opened.line, f"record 0, {opened.name}", why)
