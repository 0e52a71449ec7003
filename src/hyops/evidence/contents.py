"""A verified chain as typed records: each is parsed once and keeps the line it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hyops.errors import RecordError
from hyops.evidence import journal
from hyops.evidence.chain import BadRecordError, Fault, Link
from hyops.model import canonical
from hyops.model.approval import Approval
from hyops.model.base import Part, Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.evidence import Actuals, Loss
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.fence import DemotionReceipt, FenceReceipt
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunResult, StepOutcome

P = TypeVar("P", bound=Part)

SINGLE: dict[str, type[Part]] = {
    "decision": Decision,
    "inputs": DecisionInputs,
    "plan": Plan,
    "request": DispatchRequest,
    "execution": Execution,
    "attempt": Attempt,
    "run-result": RunResult,
    "outcome": AttemptOutcome,
    "loss": Loss,
    "actuals": Actuals,
}
MANY: dict[str, type[Part]] = {
    "approval": Approval,
    "fence-receipt": FenceReceipt,
    "demotion-receipt": DemotionReceipt,
    "step": StepOutcome,
}


@dataclass(frozen=True)
class Placed(Generic[P]):
    """A record and the link that carries it."""

    link: Link
    record: P

    def bad(self, fault: Fault, why: str) -> BadRecordError:
        """This record is at fault."""
        return BadRecordError(fault, self.link.line, f"record {self.link.entry.seq}, {self.link.name}", why)


@dataclass(frozen=True)
class Contents:
    """What a bundle says, before anything is compared."""

    links: Sequence[Link]
    placed: Mapping[str, Placed[Any]]
    lists: Mapping[str, Sequence[Placed[Any]]]
    journal: Sequence[bytes] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    def get(self, kind: type[P]) -> Placed[P] | None:
        """The one record of a kind, or None."""
        name = next(word for word, cls in SINGLE.items() if cls is kind)
        return self.placed.get(name)

    def all(self, kind: type[P]) -> Sequence[Placed[P]]:
        """All records of a kind, in order."""
        name = next(word for word, cls in MANY.items() if cls is kind)
        return self.lists.get(name, ())


def contents(links: Sequence[Link], files: Mapping[str, bytes]) -> Contents:
    """Parse the entries of a chain.

    Raises:
        BadRecordError: names the first entry that is no such record, stands twice, or is not what its subject digests.
    """
    placed: dict[str, Placed[Any]] = {}
    lists: dict[str, list[Placed[Any]]] = {}
    lines: list[bytes] = []
    seen: set[str] = set()
    for link in links:
        kind = link.entry.kind
        if kind in SINGLE:
            if kind in placed:
                raise _bad(link, Fault.REPEATED, f"a second {kind}")
            placed[kind] = Placed(link, _parse(link, SINGLE[kind]))
        elif kind in MANY:
            lists.setdefault(kind, []).append(Placed(link, _parse(link, MANY[kind])))
        elif kind == "journal":
            lines.append(_journal_line(link, len(lines) + 1))
        elif kind == "attachment":
            seen.add(_attachment(link, files))
        elif kind not in {"opened", "sealed"}:
            raise _bad(link, Fault.ADDED, f"no known kind: {kind}")
    for name in sorted(set(files) - seen):
        raise BadRecordError(Fault.ADDED, len(links), f"files/{name}", "no record speaks of this file")
    return Contents(links, placed, lists, lines, files)


def _bad(link: Link, fault: Fault, why: str) -> BadRecordError:
    return BadRecordError(fault, link.line, f"record {link.entry.seq}, {link.name}", why)


def _parse(link: Link, cls: type[P]) -> P:
    try:
        record = cls.of(link.entry.content, source=link.entry.kind)
    except RecordError as exc:
        raise _bad(link, Fault.ALTERED, str(exc)) from exc
    if isinstance(record, Record):
        expected = {f"{record.kind}/{record.record_id}": record.digest()}
    else:
        digest = canonical.digest(link.entry.content)
        name = f"step/{record.step_id}" if isinstance(record, StepOutcome) else link.entry.kind
        expected = {name: digest}
    _check_subject(link, expected)
    return record


def _check_subject(link: Link, expected: Mapping[str, str]) -> None:
    if dict(link.subjects) != dict(expected):
        raise _bad(link, Fault.ALTERED, "its digest is not the one that the entry names")


def _journal_line(link: Link, number: int) -> bytes:
    try:
        raw = journal.raw_of(link.entry.content)
    except ValueError as exc:
        raise _bad(link, Fault.ALTERED, f"unreadable: {exc}") from exc
    _check_subject(link, {f"journal/{number}": canonical.digest_bytes(raw)})
    return raw


def _attachment(link: Link, files: Mapping[str, bytes]) -> str:
    name = str(link.entry.content.get("name"))
    if name not in files:
        raise _bad(link, Fault.MISSING, f"the file files/{name} is not in the bundle")
    digest = canonical.digest_bytes(files[name])
    if link.entry.content != {"name": name, "bytes": len(files[name]), "digest": digest}:
        raise _bad(link, Fault.ALTERED, f"the file files/{name} is not the one that was sealed")
    _check_subject(link, {f"files/{name}": digest})
    return name
