"""Routes and dispatch requests: a decision becomes a question to the approvers (DSP-1, DSP-2)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hyops.model.access import PublicAccess
from hyops.model.asking import THE_LOOP, KeyFingerprint
from hyops.model.base import Digest, Generation, Name, Part, Record, Text, UtcTime
from hyops.model.signal import Check
from hyops.model.vocabulary import Condition, DecisionType, Direction, ExecutionPlane, Level, Occasion, RequestStatus

ApprovalsRequired = Annotated[int, Field(ge=1, le=10)]


class ApprovalDemand(Part):
    """How many people must say yes, and in which role. It stands in the request, so it is part of what they sign."""

    required: Annotated[int, Field(ge=0, le=10)] = Field(description="0: the request needs no approval")
    role: Literal["approver"] = "approver"


class RouteCondition(Part):
    """Narrows a route; the most specific one wins, a tie is a config error."""

    dr_mode: Name | None = None
    target_cloud: Name | None = None
    service: Name | None = None
    direction: Direction | None = Field(default=None, description="of a burst: out or in")


class Route(Part):
    """Where one decision type goes."""

    target_kind: Literal["blueprint", "module"] = "blueprint"
    target_ref: Text = Field(description="a blueprint, or a module that a runner runs by itself, of the catalogue")
    target_env: Name
    execution_plane: ExecutionPlane
    runner_ref: Name | None = None
    requires_approval: bool | None = None
    approvals_required: ApprovalsRequired | None = None
    when: RouteCondition | None = None
    deny_on: list[Name] = Field(default_factory=list)
    inputs: dict[str, Any] = Field(default_factory=dict)
    access: PublicAccess | None = Field(default=None, description="for public-ephemeral alone, and needed there")


class DispatchRequest(Record):
    """One decision routed to one blueprint and runner, waiting to be approved. Status changes are further records."""

    kind: ClassVar[str] = "request"
    id_field: ClassVar[str] = "dispatch_id"

    schema_: Literal["hyops/request/v1"] = Field(default="hyops/request/v1", alias="schema")
    dispatch_id: Name
    timestamp_utc: UtcTime
    expires_at: UtcTime
    status: RequestStatus
    execution_mode: Literal["record-only"] = "record-only"
    source_decision_id: Name
    source_decision_file: Text
    source_decision_digest: Digest
    source_decision_signed: bool
    decision_type: DecisionType
    level: Level
    occasion: Occasion = Occasion.UNPLANNED
    service: Name | None = None
    generation: Generation | None = None
    execution_plane: ExecutionPlane
    runner_ref: Name | None = None
    target_kind: Literal["blueprint", "module"]
    target_ref: Text
    target_env: Name
    plan_digest: Digest | None = None
    requires_approval: bool
    approvals: ApprovalDemand | None = None
    rationale: Text
    checks: list[Check] = Field(default_factory=list)
    warnings: list[Text] = Field(default_factory=list)
    reason: Text | None = None
    requester: Annotated[str, Field(max_length=256)] = THE_LOOP
    requester_key: KeyFingerprint | None = Field(default=None, description="the SSH key that proved who asked")
    condition: Condition | None = None

    @model_validator(mode="after")
    def _one_word(self) -> DispatchRequest:
        if self.approvals is not None and (self.approvals.required > 0) is not self.requires_approval:
            raise ValueError(f"approvals.required {self.approvals.required} is not what requires_approval says")
        return self

    @property
    def requester_known(self) -> bool:
        """Whether a signature proves who asked, or that nobody did: a typed name, or a decision by hand, does not."""
        return self.source_decision_signed and (self.requester == THE_LOOP or self.requester_key is not None)

    @property
    def approvals_needed(self) -> int:
        """The least number of people who must say yes. A record of an older hyops names none: one, if any at all."""
        return int(self.requires_approval) if self.approvals is None else self.approvals.required
