"""Where a decision stands on its way to an outcome, what it waits for, and what a person does about it (UX-2, INV-7).

Pure: the records of one decision and what is known of the stages give one sentence and one next command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from hyops.control.approval import TOO_LATE, lacking
from hyops.control.dispatch import ahead
from hyops.control.execution import MAYBE_OVER, SET_CLOCK
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.vocabulary import DecisionType, Outcome, RequestStatus
from hyops.ports.starts import Hindrance

STILL_S = 10.0  # two rescans: a stage that serves has answered by then, whatever events were lost
UNITS = {stage: f"hyops-decision-{unit}" for stage, unit in (
    ("dispatch", "dispatcher"), ("approval", "consumer"), ("execution", "executor"),
)}  # fmt: skip
ASK_AGAIN = "hyops decision request"
UNREAD = (
    "find out who changed that file and bring back the true one, or put the key that signed it into the executor's "
    "`trusted_keys`: it goes on by itself; `hyops runner jobs` shows what its runner knows"
)
IGNORED = {
    "level:monitor": "raise `level` in the service's policy, or ask for it yourself: `hyops decision request`",
    "dry-run": "it was made to be looked at; ask for it in earnest: `hyops decision request`",
    "no_route": "name a route for it in the dispatcher's configuration, `hyops apply`, then `hyops decision request`",
    "foreign-env": "it is another environment's: look at the `env` of its policy and of the routes",
    "expired": "it came too late to the dispatcher; if it is still wanted: `hyops decision request`",
    "too-old": "it came too late to the dispatcher; if it is still wanted: `hyops decision request`",
    "from-the-future": "set the clock of the host that made it, then `hyops decision request`",
    "condition": "nothing: it was made in advance, for `hyops takeover`",
}
"""First word of a dispatcher's reason -> what to do."""


@dataclass(frozen=True)
class Chain:
    """The verified records of one decision, as far as there are any. `refused`: by stage, why it closed its record.

    `spoken`: people who seem to say yes to the request; `unfit`: of some approvals, why they do not count.
    `serving`: the stages that run; None where nobody can tell. `dialled`: somebody has the right to dial for the
    attempt.
    """

    decision: Decision
    request: DispatchRequest | None = None
    execution: Execution | None = None
    attempt: Attempt | None = None
    outcome: AttemptOutcome | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    held_up: str | None = None
    """What stands where the dispatcher's plan or request belongs; it goes on when that is mended."""
    flooded: str | None = None
    """Why the approval stage believed none of its approvals; it goes on when that is mended."""
    spoken: int = 0
    unfit: Sequence[str] = ()
    before_it: str | None = None
    """Why nothing is started for its service now: a run that is open, or one of unknown end."""
    hindrance: Hindrance | None = None
    unread: str | None = None
    """What stands where the attempt belongs, and is not believed."""
    stuck: Hindrance | None = None
    """What the executor waits for a person to mend, before there is an attempt."""
    held: str | None = None
    """Why nothing of an execution without an attempt is sent now."""
    serving: frozenset[str] | None = None
    dialled: bool = True
    surely: datetime | None = None
    """What has passed for certain on this host, where that is not now."""
    rto_s: float | None = None


@dataclass(frozen=True)
class Stand:
    """`state` in one or two words, `why`, and what to do `next` (a command, or words with one)."""

    state: str
    why: str
    next: str


def stand_of(chain: Chain, now: datetime) -> Stand:
    """Where it stands: judged from the end, for whatever came last says most."""
    if chain.attempt is not None:
        return _tried(chain, chain.attempt, now)
    if chain.execution is not None:
        return _approved(chain, chain.execution, now)
    if chain.request is not None:
        return _asked(chain, chain.request, now)
    return _decided(chain, now)


def _decided(chain: Chain, now: datetime) -> Stand:
    made = chain.decision
    if made.decision_type is DecisionType.HOLD:
        return Stand("held", made.rationale, f"hyops hold list {made.service or 'SERVICE'}")
    if (reason := chain.refused.get("dispatch")) is not None:
        return Stand("ignored", f"by the dispatcher: {reason}", _about(reason))
    if made.expires_at is not None and made.expires_at <= now:
        if _maybe_over(chain, made.expires_at):
            return Stand("waiting", MAYBE_OVER, SET_CLOCK)
        return Stand("expired", "no dispatcher took it in its time", ASK_AGAIN)
    if ahead(made, now) is not None and _stage("dispatch", chain) is None:
        return Stand(
            "waiting", "it is dated ahead of this host's clock: which of the two is wrong is not known", SET_CLOCK
        )
    if chain.held_up is not None and _stage("dispatch", chain) is None:
        todo = "find out who changed that file, and move it away: the dispatcher goes on by itself"
        return Stand("held up", chain.held_up, todo)
    return _waits_for("dispatch", made.timestamp_utc, chain, now, "no request yet")


def _asked(chain: Chain, request: DispatchRequest, now: datetime) -> Stand:
    if request.status is RequestStatus.DENIED:
        return Stand("denied", f"by the dispatcher: {request.reason}", f"mend what it names, then `{ASK_AGAIN}`")
    closed = chain.refused.get("approval")
    if closed is not None and closed.startswith("rejected"):
        return Stand("rejected", closed, "nothing: it can never run")
    late = closed is not None and closed.startswith(TOO_LATE)
    if closed is not None and not late:
        return Stand("refused", f"by the approval stage: {closed}", ASK_AGAIN)
    if not late and now >= request.expires_at and _maybe_over(chain, request.expires_at):
        return Stand("waiting", MAYBE_OVER, SET_CLOCK)
    if late or now >= request.expires_at:
        return Stand("expired", f"{_times(chain.spoken, 'approval')} came in its time, and that was not enough",
                     ASK_AGAIN)  # fmt: skip
    if (lacks := lacking(request)) is not None:
        return Stand("waiting", lacks, f"name what is missing, then `{ASK_AGAIN}`")
    if chain.flooded is not None:
        return Stand("waiting", chain.flooded, f"hyops approval show {request.dispatch_id}")
    stage = _stage("approval", chain)
    if stage is not None:
        return Stand("waiting", f"{stage}; {_times(chain.spoken, 'approval')} there", _start("approval"))
    needed = request.approvals.required if request.approvals else None
    of = f" of {needed} or more" if needed else ""
    why = f"for approval: {chain.spoken}{of} given" if request.requires_approval else "for the approval stage"
    if chain.spoken and request.requires_approval:
        why += f", as far as {UNITS['approval']} finds their signatures good"
    return Stand("waiting", "; ".join([why, *chain.unfit]), f"hyops approval show {request.dispatch_id}")


def _approved(chain: Chain, execution: Execution, now: datetime) -> Stand:
    if (reason := chain.refused.get("execution")) is not None:
        return Stand("refused", f"by the executor: {reason}", ASK_AGAIN)
    if chain.outcome is not None:
        return _ended(chain.outcome)
    if chain.unread is not None:
        return Stand("held up", f"{chain.unread}; nothing tells whether that run was started", UNREAD)
    if now >= execution.expires_at and _maybe_over(chain, execution.expires_at):
        return Stand("waiting", MAYBE_OVER, SET_CLOCK)
    if now >= execution.expires_at:
        return Stand("expired", "it was approved, and no executor started it in its time", ASK_AGAIN)
    if chain.held is not None and _stage("execution", chain) is None:
        todo = f"hyops hold list {execution.service}; `hyops approval reject {execution.source_dispatch_id}` ends it"
        return Stand("held", f"{chain.held}; nothing of it is sent before that ends", todo)
    if chain.stuck is not None and _stage("execution", chain) is None:
        return Stand("held up", chain.stuck.message, chain.stuck.hint)
    if chain.before_it is not None and _stage("execution", chain) is None:
        return Stand("queued", chain.before_it, "hyops status")
    return _waits_for("execution", execution.timestamp_utc, chain, now, f"queued for {execution.runner_ref}")


def _tried(chain: Chain, attempt: Attempt, now: datetime) -> Stand:
    if chain.outcome is not None:
        return _ended(chain.outcome)
    if attempt.execution_mode == "dry-run":
        todo = f"set `mode: dispatch` in the executor's configuration, `hyops apply`, then `{ASK_AGAIN}`"
        return Stand("dry run", "the executor's mode is dry-run: nothing is started", todo)
    if (stage := _stage("execution", chain)) is not None:
        return Stand("run open", f"on {attempt.runner_ref}; {stage}", _start("execution"))
    if (by := chain.hindrance) is not None:
        return Stand(by.word, f"{by.message}; it is tried again", by.hint)
    since_s = (now - attempt.timestamp_utc).total_seconds()
    if chain.rto_s is not None and since_s > chain.rto_s:
        why = f"on {attempt.runner_ref} for {since_s:.0f} s of {chain.rto_s:g} s"
        return Stand("overdue", why, f"hyops run show {attempt.run_id}")
    how = f"on {attempt.runner_ref} for {since_s:.0f} s, followed{'' if chain.dialled else ' by nobody'}"
    return Stand("run open", how, f"hyops run follow {attempt.run_id}")


def _ended(by: AttemptOutcome) -> Stand:
    todo = {
        Outcome.SUCCEEDED: "nothing",
        Outcome.UNKNOWN: f"hyops run reconcile {by.run_id}",
        Outcome.REFUSED: f"mend what it names, then `{ASK_AGAIN}`",
    }.get(by.outcome, f"hyops run show {by.run_id}")
    return Stand(str(by.outcome), by.reason or "ended", todo)


def _about(reason: str) -> str:
    """What to do about a decision that the dispatcher left alone; some reasons have a detail behind a colon."""
    known = IGNORED.get(reason) or IGNORED.get(reason.partition(":")[0])
    return known or f"mend what it names, then `{ASK_AGAIN}`"


def _waits_for(stage: str, since: datetime | None, chain: Chain, now: datetime, why: str) -> Stand:
    if (dead := _stage(stage, chain)) is not None:
        return Stand("waiting", f"{why}; {dead}", _start(stage))
    waited_s = (now - since).total_seconds() if since is not None else 0.0
    if chain.serving is not None and waited_s > STILL_S:
        return Stand("stands still", f"{why} after {waited_s:.0f} s, though {UNITS[stage]} serves",
                     f"systemctl restart {UNITS[stage]}")  # fmt: skip
    return Stand("waiting", why, "wait a moment, and ask again")


def _stage(stage: str, chain: Chain) -> str | None:
    """That nobody serves this stage; None where somebody does, or nobody can tell."""
    return f"no {UNITS[stage]} serves" if chain.serving is not None and stage not in chain.serving else None


def _start(stage: str) -> str:
    return f"systemctl start {UNITS[stage]}; its journal says why it ended"


def _maybe_over(chain: Chain, until: datetime) -> bool:
    """Whether what is over by this host's clock is not over for certain, so that no stage closes it."""
    return chain.surely is not None and chain.surely < until


def _times(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
