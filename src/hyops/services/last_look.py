"""The last look before anything of an attempt is sent: who said no meanwhile, who holds the service (APR-1, DEC-6).

Between an execution and its start lies whatever time it takes: a dispatcher that was slow, a runner that is not
reached, another run. A rejection or a withdrawal of that time is as good as an earlier one, and ends it for good; so
is the taking back of a standing approval that carries it, or of a delegation under which somebody said yes to it. What
only ran out meanwhile was fit when it counted: the execution's own end is no later than a delegation's. A hold binds
what the loop decided by itself, for as long as it lasts; what a person asked for says why it goes on. The moment that
counts is the mark that a start may have been sent: what came after it is for `hyops run cancel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hyops.control.approval import Marker, judge
from hyops.control.hearing import NO, Delegating, Heard, Verified, hear
from hyops.errors import ConfigError, HeldError, NotApprovedError, PrerequisiteError, StoreLostError
from hyops.model import ids
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import ApprovalSummary, Execution
from hyops.ports.clock import Clock
from hyops.ports.signer import ApprovalVerifier
from hyops.services.approval import Speaking
from hyops.services.holds import HoldBook
from hyops.services.inbox import Inbox

EVER_S = 366 * 86400.0


class LastLook:
    """Looks only; the inboxes are whoever's who refreshes them. Without `people` nobody's signature can be proved."""

    def __init__(
        self,
        approvals: Inbox[Approval],
        decisions: Inbox[Decision],
        *,
        people: ApprovalVerifier | None,
        holds: Mapping[str, HoldBook],
        clock: Clock,
    ) -> None:
        """`holds`: service -> what people said about holding it."""
        self._speaking, self._decisions = Speaking(approvals), decisions
        self._people, self._holds, self._clock = people, holds, clock

    def no(self, execution: Execution, request: DispatchRequest) -> str | None:
        """Who said no, where that leaves the execution without the approvals it needs; None also where nobody can tell
        whose word it is, which `wait` says.
        """
        try:
            return self._no(execution, request)
        except (PrerequisiteError, ConfigError):
            return None

    def wait(self, execution: Execution, request: DispatchRequest) -> str | None:
        """Why nothing may be sent for now; None when something may.

        Raises:
            StoreLostError: no record can be read now.
        """
        try:
            self._no(execution, request)
        except (PrerequisiteError, ConfigError) as exc:
            return (
                f"somebody says no to {request.dispatch_id}, and whose word that is cannot be told now: {exc.message}"
            )
        return self._held(execution, request)

    def refuse(self, execution: Execution, request: DispatchRequest) -> None:
        """Return when a start may be sent now.

        Raises:
            NotApprovedError: never again. HeldError: not now. StoreLostError: no record can be read now.
        """
        if (no := self.no(execution, request)) is not None:
            raise NotApprovedError(no, hint="nothing: it can never run; `hyops decision request` asks for it anew")
        if (why := self.wait(execution, request)) is not None:
            raise HeldError(why)

    def _no(self, execution: Execution, request: DispatchRequest) -> str | None:
        """PrerequisiteError, ConfigError: there is a no, and nobody can be asked whose it is."""
        if self._people is None:
            return None
        given = execution.approval
        said = self._speaking.of(request, names=given.record_ids)
        noes = [one for one in said if one.statement.verdict in NO and not one.statement.takes_back]
        if not noes and not any(one.statement.takes_back for one in said):
            return None
        gone = _gone(given, said, Delegating(self._people, ApprovalPolicy(), self._clock.now()))
        heard = hear(request, noes, self._people, ApprovalPolicy(), self._clock.now()).verified
        carries = {*given.approved_by, *(acting.on_behalf_of for acting in given.delegations or ())}
        mine = [one for one in heard if one.approval.statement.verdict == "reject" or one.by.principal in carries]
        if not mine and not gone:
            return None
        named = [one for one in said if one.approval_id in given.record_ids]
        at, policy = execution.timestamp_utc, _as_it_was(given)  # each was fit then, and that was what it needed
        fit = hear(request, named, self._people, policy, at).verified
        yeses = [one for one in fit if not _names(one) & gone.keys()]
        seen = tuple(given.acknowledged_warnings or ())
        markers = [Marker(by, request.dispatch_id, by, None, seen) for by in given.approved_by]
        verdict = judge(request, Heard((*mine, *yeses)), policy, at, markers if given.mode == "marker" else ())
        if verdict.state == "ready":
            return None
        if verdict.state == "refused":
            return verdict.reason
        back = [f"{one.by.principal}: {one.approval.statement.note or ''}".rstrip(": ") for one in mine]
        why = [*([f"withdrawn by {', '.join(back)}"] if back else []), *gone.values()]
        return "; ".join([*why, verdict.reason])

    def _held(self, execution: Execution, request: DispatchRequest) -> str | None:
        book, decision = self._holds.get(execution.service), self._decisions.get(request.source_decision_id)
        if book is None or (decision is not None and decision.requested_by is not None):
            return None
        try:
            book.refresh()
        except StoreLostError:
            raise
        except PrerequisiteError as exc:
            return f"whether {execution.service} is held cannot be told now: {exc.message}"
        hold = book.hold_now()
        if hold is None:
            return None
        return f"{hold.service} is held until {ids.stamp(hold.until)} by {hold.owner}: {hold.reason}"


def _gone(given: ApprovalSummary, said: Sequence[Approval], heard: Delegating) -> dict[str, str]:
    """Which of the records that carry it were taken back since, by id, and who said so.

    Who gave each stands in the execution, so one that was taken back and then removed is taken back too.
    """
    for one in said:
        heard.takes(one)
    gave = [(one.approval_id, one.on_behalf_of, "delegation") for one in given.delegations or ()]
    plain = {one.approval_id for one in said if one.statement.verdict != "standing"}  # withdrawn by the request's id
    people = zip(given.approval_ids, given.approved_by, strict=False)
    gave += [(name, by, "standing approval") for name, by in people if name not in plain]
    gone = {}
    for name, by, what in gave:
        if (back := heard.back(name, by)) is not None:
            gone[name] = f"{by} took back the {what} {name}: {back.statement.note or ''}".rstrip(": ")
    return gone


def _names(yes: Verified) -> set[str]:
    """The records without which it is no yes: itself, and the delegation that it acts under."""
    return {yes.approval.approval_id} | ({yes.under.approval.approval_id} if yes.under else set())


def _as_it_was(given: ApprovalSummary) -> ApprovalPolicy:
    """The rule under which these approvals carried it: the approval stage's own is not here, and what it was is."""
    needed = len(given.approval_ids) if given.needed is None else given.needed
    return ApprovalPolicy(
        mode="marker" if given.mode == "marker" else "signed",
        required=1 if given.mode == "marker" else max(needed, 1),
        allow_standing=True,
        allow_unapproved=given.mode == "none",
        allow_delegation=True,
        max_age_s=EVER_S,
        standing_max_s=EVER_S,
        delegation_max_s=90 * 86400.0,
    )
