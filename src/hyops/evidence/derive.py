"""The chain must be the one that `assemble` makes of the records in it: same entries, order, times and numbers (EVD-2).

Whoever holds the key that writes chains can write any chain. So nothing in it is taken at its word: the story is put
together again from the records that others signed, and the first entry that departs from it is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hyops.evidence.assemble import Draft, Story, entries, opened
from hyops.evidence.chain import BadRecordError, Fault, Link
from hyops.evidence.contents import Contents
from hyops.model.approval import Approval
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.ports.transport import RunReturn


def departure(found: Contents) -> Iterator[BadRecordError]:
    """The first entry that does not follow from the records; nothing when all of them do."""
    story = _story(found)
    if story is None:
        return  # without a request there is no story, which is a fault of its own
    expected = list(_drafts(found, story))
    seen: set[str] = set()
    for index, link in enumerate(found.links):
        draft = expected[index] if index < len(expected) else None
        if draft is None or not _same(link, draft):
            yield _named(found.links[index:], expected[index:], seen)
            return
        seen.add(link.name)


def _story(found: Contents) -> Story | None:
    request, result = found.get(DispatchRequest), found.get(RunResult)
    if request is None:
        return None
    decision, inputs, plan = found.get(Decision), found.get(DecisionInputs), found.get(Plan)
    execution, attempt, outcome = found.get(Execution), found.get(Attempt), found.get(AttemptOutcome)
    journal = b"".join(line + b"\n" for line in found.journal)
    return Story(
        request=request.record,
        decision=decision.record if decision else None,
        plan=plan.record if plan else None,
        approvals=list({a.record.approval_id: a.record for a in reversed(found.all(Approval))}.values())[::-1],
        execution=execution.record if execution else None,
        attempt=attempt.record if attempt else None,
        run_return=RunReturn(result.record, journal, b"") if result else None,
        outcome=outcome.record if outcome else None,
        inputs=inputs.record if inputs else None,
        attachments=found.files,
    )


def _drafts(found: Contents, story: Story) -> Iterator[Draft]:
    now, last = found.links[0].entry.at, found.links[-1].entry
    yield opened(story, now, str(found.links[0].entry.content.get("hyops")))
    yield from entries(story, now)
    yield Draft("sealed", now, last.content, "chain", last.prev)


def _same(link: Link, draft: Draft) -> bool:
    """Bodies are compared where no subject digests them already."""
    entry = link.entry
    whole = entry.kind != "opened" or entry.content == draft.body
    return whole and (entry.kind, entry.at, dict(link.subjects)) == (
        draft.kind,
        draft.at,
        {draft.subject: draft.digest},
    )


def _named(links: Sequence[Link], drafts: Sequence[Draft], seen: set[str]) -> BadRecordError:
    link, draft = links[0], drafts[0] if drafts else None
    if link.name in seen:
        return _bad(link, Fault.REPEATED, "it stands in the bundle already")
    if draft is not None and link.entry.kind == draft.kind and link.name == draft.subject:
        return _bad(link, Fault.CONTRADICTION, _difference(link, draft))
    if draft is not None and link.name in {later.subject for later in drafts}:
        if draft.subject in {later.name for later in links}:
            return _bad(link, Fault.REORDERED, f"{draft.subject} belongs before it")
        return _bad(link, Fault.MISSING, f"{draft.subject} is missing before it, and the records give rise to it")
    if draft is not None and link.entry.kind == draft.kind == "opened":
        return _bad(link, Fault.CONTRADICTION, f"the records are those of {draft.subject}")
    return _bad(link, Fault.ADDED, "no record gives rise to it")


def _bad(link: Link, fault: Fault, why: str) -> BadRecordError:
    return BadRecordError(fault, link.line, f"record {link.entry.seq}, {link.name}", why)


def _difference(link: Link, draft: Draft) -> str:
    said, derived = link.entry.content, draft.body
    for key in sorted({*said, *derived}):
        if said.get(key) != derived.get(key):
            told, true = (str(value.get(key, "nothing"))[:200] for value in (said, derived))
            return f"{key}: it says {told}, the records give {true}"
    if link.entry.at != draft.at:
        return f"its time is {link.entry.at.isoformat()}, the records give {draft.at.isoformat()}"
    return "its digest is not the one that the entry names"
