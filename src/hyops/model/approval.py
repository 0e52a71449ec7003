"""Approvals: OpenSSH signatures by people over exactly what they saw (APR-1 to APR-4).

The signed bytes are the canonical JSON of the statement below, under the SSHSIG namespace `hyops-approval@v1`. The name
of a record derives from them (`ApprovalStatement.record_id`), so the same words say yes under one name only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hyops.model import canonical, ids
from hyops.model.base import Digest, Name, Part, Record, Text, UtcTime
from hyops.model.presence import Presence, unseen
from hyops.model.vocabulary import DecisionType, Occasion

if TYPE_CHECKING:
    from hyops.model.dispatch import DispatchRequest

SSHSIG_NAMESPACE = "hyops-approval@v1"


class ApprovalStatement(Part):
    """What an approver signs. Without `request_digest`: a standing approval for one plan, bounded in time."""

    schema_: Literal["hyops/approval/v1"] = Field(default="hyops/approval/v1", alias="schema")
    verdict: Literal["grant", "reject", "withdraw", "standing", "break-glass", "delegate"]
    approver: Annotated[str, Field(min_length=1, max_length=256)]
    signed_at: UtcTime
    expires_at: UtcTime
    plan_digest: Digest | None = None
    dispatch_id: Name | None = None
    request_digest: Digest | None = None
    service: Name | None = None
    decision_types: list[DecisionType] = Field(default_factory=list)
    occasions: list[Occasion] = Field(default_factory=list)
    acknowledged_warnings: list[Text] = Field(default_factory=list)
    accepted_loss: Text | None = None
    note: Text | None = None
    on_behalf_of: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    delegation: Name | None = Field(
        default=None,
        description="what a grant acts under, or what a withdraw takes back: a delegation or a standing approval",
    )
    delegate: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    services: Annotated[list[Name], Field(min_length=1, max_length=100)] | None = None
    starts_at: UtcTime | None = None

    @model_validator(mode="after")
    def _complete(self) -> ApprovalStatement:
        self._delegates_fully()
        if self.takes_back or self.verdict == "delegate":
            if self.request_digest is not None or self.dispatch_id is not None or self.plan_digest is not None:
                raise ValueError(f"verdict {self.verdict} of a delegation names no request and no plan")
        elif self.verdict == "standing":
            if self.plan_digest is None or self.service is None or not self.decision_types or not self.occasions:
                raise ValueError("a standing approval names plan_digest, service, decision_types and occasions")
        elif self.request_digest is None or self.dispatch_id is None:
            raise ValueError(f"verdict {self.verdict} needs dispatch_id and request_digest")
        if self.verdict == "break-glass" and not ((self.accepted_loss or "").strip() and (self.note or "").strip()):
            raise ValueError("break-glass names accepted_loss and a note with the reason, and blanks name nothing")
        if self.expires_at <= self.signed_at:
            raise ValueError("expires_at is not after signed_at")
        return self

    def _delegates_fully(self) -> None:
        """Only a plain grant acts for somebody: no delegation is passed on, and none carries a break-glass (APR-1)."""
        gives = (self.delegate, self.services, self.starts_at)
        if self.verdict != "delegate" and any(field is not None for field in gives):
            raise ValueError("delegate, services and starts_at belong to verdict delegate")
        if self.verdict == "delegate":
            if self.delegate is None or self.services is None or self.starts_at is None or not self.decision_types:
                raise ValueError("a delegation names delegate, services, decision_types and starts_at")
            if self.delegate == self.approver:
                raise ValueError("a delegation is to somebody else")
            if self.expires_at <= self.starts_at:
                raise ValueError("expires_at is not after starts_at")
        if self.verdict != "grant" and self.on_behalf_of is not None:
            raise ValueError(f"verdict {self.verdict} is said by nobody else: on_behalf_of belongs to a grant")
        if self.verdict == "grant" and (self.on_behalf_of is None) is not (self.delegation is None):
            raise ValueError("on_behalf_of and delegation go together")
        if self.verdict not in ("grant", "withdraw") and self.delegation is not None:
            raise ValueError("delegation belongs to a grant or a withdraw")

    @property
    def takes_back(self) -> bool:
        """Whether it ends a delegation or a standing approval, not an approval of a request."""
        return self.verdict == "withdraw" and self.delegation is not None

    def signed_bytes(self) -> bytes:
        """What `ssh-keygen -Y sign` gets on standard input."""
        return canonical.encode(self.body())

    def record_id(self) -> str:
        """The one id under which an approval of this says yes."""
        return ids.derived("approval", self.signed_at, canonical.digest(self.body()))


class Approval(Record):
    """A statement with its OpenSSH signature (armored SSHSIG). The signature is the person's, not a stage's."""

    kind: ClassVar[str] = "approval"
    id_field: ClassVar[str] = "approval_id"

    approval_id: Name
    statement: ApprovalStatement
    ssh_signature: Annotated[str, Field(max_length=16384)]

    @classmethod
    def signed(cls, statement: ApprovalStatement, ssh_signature: str) -> Approval:
        """The approval of a statement, under its own name, wherever it is put together."""
        return cls(approval_id=statement.record_id(), statement=statement, ssh_signature=ssh_signature)

    def misnamed(self) -> str | None:
        """Why its name is not that of what was signed; None when it is."""
        return ids.misnamed(self.approval_id, self.statement.record_id())


class ApprovalPolicy(Part):
    """How many approvers of which role, and for how long. The strictest of request, route and this wins (APR-3).

    A request has one marker (`<dispatch_id>.approved.json`, one person), so `mode: marker` needs `required: 1`.
    """

    mode: Literal["signed", "marker"] = "signed"
    required: Annotated[int, Field(ge=1, le=10)] = 1
    allow_standing: bool = False
    allow_unapproved: bool = False
    max_age_s: Annotated[float, Field(gt=0, le=366 * 86400)] = 3600.0
    standing_max_s: Annotated[float, Field(gt=0, le=366 * 86400)] = Field(
        default=30 * 86400.0, description="the longest time from signature to expiry of a standing approval"
    )

    allow_delegation: bool = False
    delegation_max_s: Annotated[float, Field(gt=0, le=90 * 86400)] = Field(
        default=14 * 86400.0, description="the longest time from beginning to end of a delegation"
    )

    require_touch: bool = Field(default=False, description="a yes counts only from a security key touched for it")
    require_pin: bool = Field(default=False, description="a yes counts only from a security key that asked for its PIN")

    require_known_requester: bool = Field(
        default=False, description="two people approve what somebody asked for without signing it (`--key`)"
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> ApprovalPolicy:
        if self.mode == "marker" and self.required > 1:
            raise ValueError(
                f"required: {self.required} with mode: marker: a request has one marker, so {self.required} people "
                "never stand in it; set mode: signed (signatures are counted), or required: 1"
            )
        if self.mode == "marker" and (self.require_touch or self.require_pin):
            raise ValueError(
                "require_touch and require_pin with mode: marker: a marker is signed by no key; set mode: signed, or "
                "take both out"
            )
        if self.mode == "marker" and self.require_known_requester:
            raise ValueError(
                "require_known_requester with mode: marker: a marker proves no name, so nobody would be known; set "
                "mode: signed, or take it out"
            )
        return self

    def doubts(self, request: DispatchRequest) -> bool:
        """Whether who asked for this may be anybody, so that nobody is surely the second person."""
        return self.require_known_requester and not request.requester_known

    def unseen(self, presence: Presence | None) -> str | None:
        """Why a yes does not show the person that the policy wants to see at the key; None when it does."""
        return unseen(presence, touch=self.require_touch, pin=self.require_pin)

    def too_long(self, statement: ApprovalStatement) -> str | None:
        """Why a standing approval would stand for longer than the policy allows; None when it does not."""
        lasts_s = (statement.expires_at - statement.signed_at).total_seconds()
        if statement.verdict != "standing" or lasts_s <= self.standing_max_s:
            return None
        return f"it stands for {lasts_s / 86400:.1f} days, and the policy allows {self.standing_max_s / 86400:.1f}"
