"""Everything that must be there before a run is asked for, looked at in one go (GATE-1): all that is missing is named.

Nothing is staged and nothing is changed. What only the runner can see (a fence, a repository, a database) it asks by
itself before its first effect; that is said here as `later`, never as `ok`.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from hyops.engine import safety
from hyops.errors import (
    Effect,
    HyopsError,
    NotApprovedError,
    PrerequisiteError,
    RunnerAbsentError,
    RunnerUnreachableError,
    SecretsError,
)
from hyops.model.approval import ApprovalPolicy
from hyops.model.plan import Plan
from hyops.model.runners import RunnerPlace
from hyops.model.vocabulary import ExecutionPlane, Phase
from hyops.ports.transport import RunnerHello, RunnerSession, RunnerTransport
from hyops.services import clocks

NeverMade = Callable[[RunnerPlace], str | None]
"""What the environment's own records show of a runner that was never made, or is destroyed; None: nothing."""

NEVER_BYPASSED = ("plan", "approval", "fence")
BYPASSED = ("runner", "clock", "free", "access", "data", "secrets")


@dataclass(frozen=True)
class Finding:
    """One check. `error` is there when it is bad; `absent`: something shows that no runner stands, not its silence."""

    check: str
    state: Literal["ok", "bad", "later", "bypassed"]
    detail: str
    error: HyopsError | None = None
    absent: bool = False

    def body(self) -> dict[str, str]:
        """For programs and for the record."""
        hint = {} if self.error is None else {"hint": self.error.hint}
        return {"check": self.check, "state": self.state, "detail": self.detail, **hint}


def bad(check: str, error: HyopsError) -> Finding:
    """A finding from a refusal."""
    return Finding(check, "bad", error.message, error)


def refusal(findings: Sequence[Finding]) -> HyopsError | None:
    """One error that names everything that is missing, with the exit code of the first; None when nothing is."""
    faults = [finding for finding in findings if finding.error is not None]
    if not faults:
        return None
    first = faults[0].error
    assert first is not None
    named = "; ".join(f"{finding.check}: {finding.detail}" for finding in faults)
    return type(first)(named, hint=first.hint, effect=first.effect)


def approvers(
    policy: ApprovalPolicy, people: Callable[[], Collection[str]], requester: str, *, proved: bool
) -> Finding:
    """Whether enough people could approve; who asks is not counted, `proved` by a key or by name (APR-1)."""
    needed = max(policy.required, 2 if policy.require_known_requester and not proved else 1)
    try:
        able = sorted(set(people()) - {requester})
    except HyopsError as exc:
        return bad("approval", exc)
    if policy.mode == "signed" and len(able) < needed:
        return bad(
            "approval",
            NotApprovedError(
                f"{needed} approvers are needed besides {requester}, and there are {len(able)}",
                hint="give more people the role `approver`, or let somebody else ask",
            ),
        )
    return Finding("approval", "later", f"{needed} of {', '.join(able)} must approve this plan")


def fencing(plan: Plan) -> Finding:
    """Whether a fence will have to be shown. That one stands before every promotion was checked with the plan."""
    if not any(step.module_ref in safety.PROMOTES for step in plan.steps):
        return Finding("fence", "ok", "the plan promotes nothing")
    return Finding("fence", "later", "a fence stands before the promotion; the runner asks it before its first effect")


def data_source(plan: Plan) -> Finding:
    """Where the data comes from."""
    steps = [step.id for step in plan.steps if step.phase in (Phase.DATA, Phase.BACKUP)]
    if not steps:
        return Finding("data", "ok", "the plan restores nothing")
    return Finding("data", "later", f"{', '.join(steps)}: the runner asks before its first effect")


async def runner(
    transport: RunnerTransport,
    runner_ref: str,
    place: RunnerPlace,
    plan: Plan,
    never_made: NeverMade = lambda place: None,
) -> tuple[list[Finding], RunnerHello | None]:
    """Whether the runner stands where it should, speaks our protocol, and has nothing open for this service."""
    try:
        async with transport.connect(runner_ref) as session:
            hello = await session.hello()
            return [_standing(hello, place), _clock(hello), await _free(session, hello, plan)], hello
    except RunnerUnreachableError as exc:
        try:
            shown = exc.message if isinstance(exc, RunnerAbsentError) else never_made(place)
        except HyopsError as fault:  # a record that cannot be read proves nothing
            return [bad("runner", unreachable(runner_ref, place, exc)), bad("state", fault)], None
        if shown is None:
            return [bad("runner", unreachable(runner_ref, place, exc))], None
        error = missing(runner_ref, place, shown)
        return [Finding("runner", "bad", error.message, error, absent=True)], None
    except HyopsError as exc:
        return [bad("runner", exc)], None


def missing(runner_ref: str, place: RunnerPlace, shown: str) -> PrerequisiteError:
    """A runner that does not stand is never made by the way: the error names the command that makes it."""
    make = shlex.join(place.bootstrap)
    return PrerequisiteError(
        f"runner {runner_ref} does not stand: {shown}",
        hint=f"make it with `{make}` (`--bootstrap-runner` runs that)"
        if make
        else f"make it: `hyops runner bootstrap {runner_ref}`; runners.{runner_ref}.bootstrap in runners.yml may hold "
        "that command for `--bootstrap-runner`",
    )


def unreachable(runner_ref: str, place: RunnerPlace, why: HyopsError) -> PrerequisiteError:
    """Silence is no absence: what may stand, with a run under way on it, is never made over."""
    make = shlex.join(place.bootstrap) or f"hyops runner bootstrap {runner_ref}"
    known = "" if place.state_ref else f"; with runners.{runner_ref}.state_ref in runners.yml a state can show it"
    return PrerequisiteError(
        f"runner {runner_ref} is unreachable, and nothing shows that it does not stand: {why.message}",
        hint=f"bring it or the way to it back. `--bootstrap-runner` makes only what is shown to be absent{known}. "
        f"Where you know that it is gone, run `{make}` yourself",
    )


def _standing(hello: RunnerHello, place: RunnerPlace) -> Finding:
    if hello.site != place.site:
        return bad(
            "runner",
            PrerequisiteError(
                f"runner {hello.runner_ref} says that it is in {hello.site}, and runners.yml says {place.site}",
                hint="find out which is true before anything runs there",
            ),
        )
    return Finding("runner", "ok", f"{hello.runner_ref} in {hello.site}, hyops {hello.hyops_version}")


def _clock(hello: RunnerHello) -> Finding:
    """Asked once more before anything is staged, also where this check is left out (GATE-4)."""
    if (error := clocks.fault(hello.clock, hello.runner_ref)) is not None:
        return bad("clock", error)
    if hello.clock is None:
        return Finding("clock", "later", clocks.UNTOLD)
    return Finding("clock", "ok", clocks.told(hello.clock))


async def _free(session: RunnerSession, hello: RunnerHello, plan: Plan) -> Finding:
    for run_id in hello.open_runs:
        status = await session.status(run_id)
        if status.state != "finished" and status.facts.get("service") == plan.service:
            return bad(
                "free",
                PrerequisiteError(
                    f"run {run_id} of {plan.service} is open there ({status.state})",
                    hint="follow it, resume it, or cancel it",
                ),
            )
    return Finding("free", "ok", f"no run of {plan.service} is open there")


def access(plan: Plan) -> Finding:
    """The access mode of the plan. No other one is ever tried."""
    if plan.execution_plane is ExecutionPlane.RUNNER_LOCAL:
        return Finding("access", "ok", "runner-local: the runner reaches its targets itself")
    detail = f"{plan.execution_plane}: the runner asks for its prerequisites before its first effect; no other is tried"
    return Finding("access", "later", detail)


async def secrets(read: Callable[[], Awaitable[Collection[str]]], plan: Plan) -> Finding:
    """Whether every key that the plan names has a value."""
    try:
        there = await read()
    except HyopsError as exc:
        return bad("secrets", exc)
    if absent := sorted(set(plan.sync_env or {}) - set(there)):
        fault = SecretsError(
            f"no value for {', '.join(absent)}",
            hint="fill the vault cache, or pass --secret-source",
            effect=Effect.NONE,
        )
        return bad("secrets", fault)
    named = ", ".join(sorted(plan.sync_env or {}))
    return Finding("secrets", "ok", named or "the plan names none")
