"""What waits at each stage of a loop, and since when: told from the records, alike to whoever asks (LOOP-4, UX-2).

A record waits until another names its digest, or until its stage closes it with a refusal of that digest. So a refusal
of other bytes under the same name answers nothing, and one that says what holds a request up closes nothing. What has
expired waits for nobody. Signatures are not looked at: people are told, and nothing is decided by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hyops.control.giving_way import ASKED
from hyops.model import canonical
from hyops.model.base import Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, Execution
from hyops.model.refusal import Refusal
from hyops.services.inbox import refuses, slot_for
from hyops.services.seen import Readable, Seen

STAGES = ("dispatch", "approval", "execution", "runners")
"""Who is waited for; `runners` are waited for by attempts that are open."""
StoreOf = Callable[[str, str], Readable]
"""The records of a stage, and of which kind."""


@dataclass(frozen=True, slots=True)
class Came:
    """One record that somebody has to answer. `names`: what an answer calls it. `until`: when it waits no more."""

    record_id: str
    names: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    why: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a refusal says of the bytes with this digest; `holding`: why they go on waiting, None where they do not."""

    digest: str
    holding: str | None


@dataclass(frozen=True, slots=True)
class Waits:
    """A record that nothing answers yet. `since` is None where it does not say when it was made."""

    record_id: str
    since: datetime | None
    why: str

    def age_s(self, now: datetime) -> float | None:
        """For how long; never less than none, whatever the clock of whoever made it."""
        return None if self.since is None else max(0.0, (now - self.since).total_seconds())


@dataclass(frozen=True)
class Queue:
    """What came in for one stage, the names of what was answered, and what the stage refused."""

    source: Seen[Came]
    answers: Sequence[Seen[str]]
    refusals: Seen[Said] | None

    def waiting(self, now: datetime) -> list[Waits]:
        """What has no answer, oldest first, and what does not say since when at the end.

        Raises:
            PrerequisiteError: a store cannot be read.
        """
        came = dict(self.source.refresh())  # first: what is answered meanwhile is not taken for waiting
        said = self.refusals.refresh().values() if self.refusals is not None else ()
        answered = {name for seen in self.answers for name in seen.refresh().values()}
        answered |= {one.digest for one in said if one.holding is None}
        held = {one.digest: one.holding for one in said if one.holding is not None}
        found = [
            Waits(one.record_id, one.since, "; ".join([one.why, *(held[name] for name in one.names if name in held)]))
            for one in came.values()
            if (one.until is None or one.until > now) and answered.isdisjoint(one.names)
        ]
        return sorted(found, key=lambda one: (one.since is None, one.since and one.since.timestamp(), one.record_id))


def queue_of(stage: str, store: StoreOf) -> Queue:
    """The queue of one of `STAGES`; KeyError for another one, which has none."""
    return {"dispatch": _dispatch, "approval": _approval, "execution": _execution, "runners": _runners}[stage](store)


def _dispatch(store: StoreOf) -> Queue:
    return Queue(
        Seen(store("decision", "records"), _coming(Decision, lambda _: "no request yet")),
        [Seen(store("dispatch", "requests"), _naming("source_decision_digest"))],
        Seen(store("dispatch", "refusals"), _saying("decision")),
    )


def _approval(store: StoreOf) -> Queue:
    def why(body: dict[str, Any]) -> str | None:
        if body["status"] not in ASKED:
            return None
        return "awaiting approval" if body["requires_approval"] else "no execution yet"

    return Queue(
        Seen(store("dispatch", "requests"), _coming(DispatchRequest, why)),
        [Seen(store("approval", "executions"), _naming("source_request_digest"))],
        Seen(store("approval", "refusals"), _saying("request")),
    )


def _execution(store: StoreOf) -> Queue:
    return Queue(
        Seen(store("approval", "executions"), _coming(Execution, lambda body: f"queued for {body['runner_ref']}")),
        [Seen(store("execution", "attempts"), _naming("source_execution_digest"))],
        Seen(store("execution", "refusals"), _saying("execution")),
    )


def _runners(store: StoreOf) -> Queue:
    def why(body: dict[str, Any]) -> str | None:
        return f"run open on {body['runner_ref']}" if body["execution_mode"] == "dispatch" else None

    return Queue(
        Seen(store("execution", "attempts"), _coming(Attempt, why, by_id=True)),
        [Seen(store("execution", "outcomes"), _naming("attempt_id"))],
        None,
    )


def _coming(
    kind: type[Record], why: Callable[[dict[str, Any]], str | None], *, by_id: bool = False
) -> Callable[[str, bytes], Came | None]:
    """What is kept of a record. `why` says what it waits for, None where nobody has to do anything about it."""

    def pick(name: str, data: bytes) -> Came | None:
        body = json.loads(data)
        if body.get("signature") is None:
            body = kind.read(data, source=name).body()  # by hand, so it may be spelled otherwise
        if body[kind.id_field] != name or (reason := why(body)) is None:
            return None  # a copy under another name is nobody's; or it is closed by itself
        unsigned = {key: value for key, value in body.items() if key != "signature"}
        names = (
            (name,) if by_id else (canonical.digest_bytes(canonical.written(unsigned)), canonical.digest_bytes(data))
        )
        return Came(name, names, _moment(body, "timestamp_utc"), _moment(body, "expires_at"), reason)

    return pick


def _naming(key: str) -> Callable[[str, bytes], str | None]:
    """What a record says that it answers."""
    return lambda name, data: str(json.loads(data)[key])


def _saying(kind: str) -> Callable[[str, bytes], Said | None]:
    """What is kept of a refusal of this kind; its id tells for which reason it was written."""

    def pick(name: str, data: bytes) -> Said | None:
        refusal = Refusal.read(data, source=name)
        digest = refusal.subject_digest
        if refusal.subject_kind != kind:
            return None
        if refuses(refusal, slot_for("flooded", digest)):
            return Said(digest, f"its stage found: {refusal.reason}")
        ends = (
            slot_for("closed", digest),
            slot_for("bad", refusal.subject_id, digest),
            f"ignored-{digest.removeprefix('sha256:')}",
        )
        return Said(digest, None) if any(refuses(refusal, slot) for slot in ends) else None

    return pick


def _moment(body: dict[str, Any], key: str) -> datetime | None:
    """ValueError for one without a time zone, which somebody wrote by hand: it is compared with no other."""
    if (text := body.get(key)) is None:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
