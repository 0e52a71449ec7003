"""Bugs to plant: each is one guard of the product, rewritten in place for as long as it is planted.

The new text takes the place of the old one in the source of the function, and its code goes into the function that
everybody has imported. Where the old text is not there any more, the guard was rewritten: plant the bug anew.
`seed`: a schedule that finds it, for CI; a search finds others.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from hyops.control import (
    approval,
    checks,
    decision,
    dispatch,
    execution,
    hearing,
    holding,
    mode,
    runspec,
    wanted,
    window,
)
from hyops.fence import agent, driver_fence, ladder, verbs
from hyops.model import quorum
from hyops.model.approval import ApprovalPolicy
from hyops.runner import admission
from hyops.services import approval as approval_service
from hyops.services import decision as decision_service
from hyops.services import dispatch as dispatch_service
from hyops.services.already import Already
from hyops.services.dialling import Dialler
from hyops.services.last_look import LastLook


@dataclass(frozen=True)
class Swap:
    """`old` in the source of `function` becomes `new`."""

    function: Any
    old: str
    new: str


@dataclass(frozen=True)
class Bug:
    """What is taken away, in words; where; and the seed that is known to find it."""

    what: str
    swaps: tuple[Swap, ...]
    seed: int
    word: str = ""
    """What the violation says that it is found by; empty: any."""


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The product with the bug in it."""
    with ExitStack() as undo:
        for function in dict.fromkeys(swap.function for swap in bug.swaps):
            fresh, before = _code(function, [s for s in bug.swaps if s.function is function]), function.__code__
            function.__code__ = fresh
            undo.callback(setattr, function, "__code__", before)
        yield


def _code(function: Any, swaps: list[Swap]) -> CodeType:
    """The code of a function as it would be with these swaps."""
    source = textwrap.dedent(inspect.getsource(function))
    for swap in swaps:
        if swap.old not in source:
            raise LookupError(f"{function.__qualname__} has no {swap.old!r} any more: plant this bug anew")
        source = source.replace(swap.old, swap.new)
    names: dict[str, Any] = {}
    whole = f"from __future__ import annotations\n{source}"
    exec(compile(whole, function.__code__.co_filename, "exec"), function.__globals__, names)  # our own source
    made: FunctionType = names[function.__name__]
    return made.__code__


def _bug(what: str, seed: int, *swaps: tuple[Any, str, str], word: str = "") -> Bug:
    return Bug(what, tuple(Swap(*swap) for swap in swaps), seed, word)


NOBODY_LOOKS = (Already.made, "sorted(self._by.get(_ending(like), ()))", "()")

BUGS: dict[str, Bug] = {
    "decide-without-quorum": _bug(
        "one vantage point is enough", 7, (wanted.lost_primary, "if len(lost) < policy.quorum:", "if not lost:")
    ),
    "decide-although-wal-flows": _bug(
        "a broken path counts as a dead primary", 3, (wanted.lost_primary, "if wal_still_arrives(inputs):", "if False:")
    ),
    "decide-for-a-bad-target": _bug(
        "a target that lags is good enough", 19, (wanted.lost_primary, "if ready.bad:", "if False:")
    ),
    "decide-unconfirmed": _bug(
        "the first bad sample counts", 1, (checks._confirmed, "return span.count", "return True or span.count")
    ),
    "decide-by-the-unwell": _bug(
        "a vantage point that is not well votes", 99, (window.judged, "if not sample.healthy_vantage:", "if False:")
    ),
    "decide-by-the-stale": _bug(
        "what was seen long ago counts as now",
        2,
        (window.current, "return last if", "return last if True or"),
    ),
    "decide-over-a-gap": _bug(
        "a gap does not break the confirm window",
        42,
        (window.folded, "and received_s - last.last_s <= signal.max_age_s", ""),
    ),
    "decide-while-a-run-is-open": _bug(
        "an open or unknown run does not hold decisions back",
        11,
        (decision.evaluate, "if blocking(mode, Occasion.UNPLANNED):", "if False:"),
    ),
    "decide-in-a-hold": _bug(
        "a hold holds nothing",
        21,
        (holding.in_force, "inputs.at < hold.until", "False"),
    ),
    "decide-by-what-was-before": _bug(
        "what was seen of the primary before the switch counts after it",
        3,
        (decision_service.DecisionStage.look, "if changed or ended:", "if False:"),
    ),
    "request-for-the-expired": _bug(
        "an expired decision is dispatched",
        5,
        (dispatch._ignored, "if until is not None and until <= now:", "if False:"),
    ),
    "request-for-a-denial": _bug(
        "a decision that denies is dispatched", 19, (dispatch.route, "if decision.dr_mode is DrMode.DENY:", "if False:")
    ),
    "two-requests": _bug(
        "a request has no slot, and nobody looks for one",
        49,
        (dispatch_service.DispatchStage._record, "slot=slot_of(decision)", "slot=None"),
        NOBODY_LOOKS,
    ),
    "approval-for-other-bytes": _bug(
        "an approval of another request counts",
        1,
        (hearing._unfit, "statement.request_digest != request.digest()", "False"),
    ),
    "approval-of-another-plan": _bug(
        "an approval of another plan counts",
        1,
        (hearing._unfit, "statement.plan_digest != request.plan_digest", "False"),
    ),
    "approval-expired": _bug(
        "an expired approval counts", 1, (hearing._unfit, "if now >= statement.expires_at:", "if False:")
    ),
    "approval-too-old": _bug("age does not matter", 1, (hearing._unfit, "if age_s > policy.max_age_s", "if False")),
    "approval-from-the-future": _bug(
        "an approval may be signed tomorrow",
        1,
        (hearing._unfit, "if not statement.signed_at <= now + timedelta(seconds=FUTURE_MAX_S):", "if False:"),
    ),
    "approval-of-nobody": _bug(
        "a role is not asked for", 1, (hearing.unfit_signer, "if needed in by.roles", "if True")
    ),
    "attempt-in-a-hold": _bug(
        "what was decided before a hold is not held", 1, (LastLook._held, "if hold is None:", "if True:")
    ),
    "attempt-after-a-no": _bug(
        "a no after the execution is not heard", 697, (LastLook._no, "if not mine and not gone:", "if True:")
    ),
    "rejection-unheard": _bug("a no is not heard", 22, (approval.judge, "if tally.rejected:", "if False:")),
    "withdrawal-unheard": _bug(
        "a withdrawn yes counts", 27, (approval._signed, "if not _names(v) & tally.withdrawn", "")
    ),
    "approved-by-who-asked": _bug(
        "who asked may approve alone",
        27,
        (quorum.carriers, "if not others:", "if False:"),
        (quorum.carriers, "any(glass[0] in person for person in others)", "True"),
    ),
    "too-few-people": _bug(
        "one is enough where two are needed", 16, (quorum.carriers, "len(people) < required", "not people")
    ),
    "standing-for-ever": _bug(
        "a standing approval stands for ever",
        1,
        (ApprovalPolicy.too_long, "lasts_s <= self.standing_max_s", "True"),
    ),
    "two-executions": _bug(
        "an execution has no slot, and nobody looks for one",
        8,
        (approval_service.ApprovalStage._execute, "slot=slot_of(request)", "slot=None"),
        NOBODY_LOOKS,
    ),
    "request-expired": _bug("an expired request runs", 2, (approval.judge, "if now >= request.expires_at or", "if")),
    "attempt-of-the-stale": _bug(
        "an execution for an older generation is tried",
        20,
        (execution.next_action, "if execution.generation < seen.proved_generation:", "if False:"),
        (execution.next_action, "if execution.generation != seen.service.generation:", "if False:"),
    ),
    "attempt-of-the-expired": _bug(
        "an expired execution is tried",
        5,
        (execution.next_action, "if (seen.surely or seen.now) >= execution.expires_at:", "if False:"),
        (execution.next_action, "if seen.now >= execution.expires_at:", "if False:"),
    ),
    "attempt-after-unknown": _bug(
        "an unknown end holds nothing back",
        60,
        (execution.next_action, "if seen.service.uncertain:", "if False:"),
    ),
    "attempt-beside-an-open-one": _bug(
        "two attempts of one service at a time: no wait, and a slot of its own for each",
        20,
        (execution.next_action, "if seen.service.open_attempt:", "if False:"),
        (execution.next_action, '{seen.closed_attempts + 1}"', '{seen.closed_attempts + 1}-{execution.execution_id}"'),
    ),
    "attempt-of-a-changed-plan": _bug(
        "a plan that was changed after its approval is tried",
        18,
        (
            runspec.run_spec,
            "if plan.digest() != execution.plan_digest or request.plan_digest != execution.plan_digest:",
            "if False:",
        ),
    ),
    "start-not-noted": _bug(
        "the mark that a start may have been sent is not set",
        165,
        (Dialler._started, "self._starts.note(attempt.attempt_id)", "pass"),
    ),
    "forged-result-believed": _bug(
        "a result proves itself", 55, (execution.closed_by_result, "if fault is not None:", "if False:")
    ),
    "unknown-is-forgotten": _bug(
        "an unknown end is not remembered", 55, (mode.mode_of, "if o.outcome is Outcome.UNKNOWN\n", "if False\n")
    ),
    "admitted-too-late": _bug(
        "the runner starts what has expired",
        43,
        (admission._fresh, "if expires_at <= now:", "if False:"),
        (admission._fresh, "spec.decision.expires_at <= now", "False"),
        (admission._granted_by, "or statement.expires_at <= now", ""),
    ),
    "fence-believed": _bug(
        "what the agent says is believed, whatever the probe saw",
        13,
        (ladder.Ladder.observed, "if result.verdict is WriteVerdict.ACCEPTED:", "if False:"),
        (ladder.Ladder.observed, "if result.verdict is not WriteVerdict.REFUSED:", "if False:"),
    ),
    "lease-not-waited-for": _bug(
        "a lease counts as expired at once",
        3,
        (ladder.Ladder.lease_expired, "how = await self._no_holder()", 'how = "nobody looked"'),
        (ladder.Ladder.lease_expired, "await self.clock.sleep(self.lease.margin_s)", "pass"),
    ),
    "unguarded-forgotten": _bug(
        "an expired lease proves an unguarded host fenced",
        77,
        (ladder.Ladder._open_ended, "if not told.unguarded_under(host, self.generation):", "if True:"),
        (driver_fence._unguarded, "return now", "return False and now"),
        (verbs.FenceVerbs.promote, "if by_time and", "if False and"),
    ),
    "edge-outlives-the-lease": _bug(
        "the edge is opened for ten times the lease",
        55,
        (agent.FenceAgent._arm, "arm(self.times.ttl_s)", "arm(10 * self.times.ttl_s)"),
    ),
    "promoted-without-a-lease": _bug(
        "the server is promoted before the lease is held",
        1,
        (verbs.FenceVerbs.promote, "await self._lease()\n", "pass\n"),
    ),
    "rows-not-waited-for": _bug(
        "a planned switch does not wait for the last rows, neither here nor at the target",
        17,
        (driver_fence.FenceDriver._replayed, "end = self._ports.clock.monotonic() + REPLAY_LIMIT_S", "return True"),
        (verbs.FenceVerbs._ready, "if demotion is None:", "if True:"),
    ),
}
"""A bug with several places is a guard that has another one behind it: both are taken away."""

REDUNDANT: dict[str, str] = {
    "hyops.services.execution.ExecutionStage._free": "two executors dial one attempt: a run starts once",
    "hyops.control.execution: Wait for an open attempt": "the slot `<service>-active-<n>` has room for one attempt",
    "hyops.services.dialling.Dialler._unless_there: asks whether it runs all the same": "asked before the start, too; "
    "in between only a start that was on its way can come in, and no schedule has met that yet",
    "hyops.services.dialling.Dialler._unless_there: what may be on its way is unknown": "a start that comes in late is "
    "refused by the runner as expired; the guard is for clocks that differ",
    "hyops.runner.admission.admit: an older generation": "the executor compares it first, and the quorum after it",
    "hyops.runner.admission: digest of the plan": "the executor compares it before anything is recorded",
    "hyops.fence.lease.may_open": "the grant is compared first; only an acquisition answered while a run fences "
    "the host gets past that, and no schedule has met it yet",
    "hyops.engine.step.probe_step": "a step that counts as done without having been leaves no receipt to go on with",
    "hyops.fence.lease: close when the lease ran out": "the kernel closes the edge by itself, at the same moment",
}
