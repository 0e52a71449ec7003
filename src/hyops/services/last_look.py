"""The last look before anything of an attempt is sent: who said no meanwhile, who holds the service (APR-1, DEC-6).

Between an execution and its start lies whatever time it takes: a dispatcher that was slow, a runner that is not
reached, another run. A rejection or a withdrawal of that time is as good as an earlier one, and ends it for good. A
hold binds what the loop decided by itself, for as long as it lasts; what a person asked for says why it goes on.
The moment that counts is the mark that a start may have been sent: what came after it is for `hyops run cancel`.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyops.control.approval import Marker, judge
from hyops.control.hearing import NO, Heard, hear
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
        said = self._speaking.of(request)
        noes = [one for one in said if one.statement.verdict in NO and not one.statement.takes_back]
        if not noes:
            return None
        given = execution.approval
        heard = hear(request, noes, self._people, ApprovalPolicy(), self._clock.now()).verified
        carries = {*given.approved_by, *(acting.on_behalf_of for acting in given.delegations or ())}
        mine = [one for one in heard if one.approval.statement.verdict == "reject" or one.by.principal in carries]
        if not mine:
            return None
        named = [one for one in said if one.approval_id in given.record_ids]
        at, policy = execution.timestamp_utc, _as_it_was(given)  # each was fit then, and that was what it needed
        yeses = hear(request, named, self._people, policy, at).verified
        seen = tuple(given.acknowledged_warnings or ())
        markers = [Marker(by, request.dispatch_id, by, None, seen) for by in given.approved_by]
        verdict = judge(request, Heard((*mine, *yeses)), policy, at, markers if given.mode == "marker" else ())
        if verdict.state == "ready":
            return None
        if verdict.state == "refused":
            return verdict.reason
        back = [f"{one.by.principal}: {one.approval.statement.note or ''}".rstrip(": ") for one in mine]
        return f"withdrawn by {', '.join(back)}; {verdict.reason}"

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
