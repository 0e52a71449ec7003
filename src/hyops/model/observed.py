"""What the decision service knew when it decided: kept beside the decision, so that it replays anywhere (DEC-5).

All `_s` values are on the service's own monotonic clock; wall times are only carried, never compared.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.model import canonical
from hyops.model.asking import AskedProof
from hyops.model.base import EnvKey, Generation, Name, Part, Text, UtcTime
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import CheckStatus, DecisionType, Occasion, Outcome, SecretOrigin


class Span(Part):
    """A stretch of samples with one status and no gap. The last sample of the stretch is kept with it."""

    status: CheckStatus
    since_s: float
    last_s: float
    count: Annotated[int, Field(ge=1)]
    taken_at: UtcTime
    value: float | None = None
    reason: Text | None = None


class Series(Part):
    """One signal from one vantage point: its latest stretches, oldest first."""

    signal: Name
    vantage: Name
    spans: list[Span] = Field(min_length=1, max_length=16)


class Mode(Part):
    """Where the service is, by confirmed outcomes only (DEC-6).

    `primary` is who was promoted last. `unserved` says why it serves no more and nobody else does yet: the present
    generation was raised for the other member, which nobody promoted.
    """

    generation: Generation
    primary: Name
    open_attempt: Name | None = None
    open_type: DecisionType | None = Field(default=None, description="what the open run is, where its id says so")
    uncertain: Text | None = None
    unserved: Text | None = None


class Past(Part):
    """A decision already made under this generation, and what became of it."""

    decision_id: Name
    decision_type: DecisionType
    ordinal: Annotated[int, Field(ge=1)]
    age_s: float
    denied: bool = False
    expired: bool = False
    reason_key: Name | None = None
    closed: Outcome | None = None
    closed_age_s: float | None = None


class Hold(Part):
    """Decided inaction for maintenance: who, why, until when (DEC-6). It is a record's, or a policy's window's."""

    service: Name
    owner: Annotated[str, Field(min_length=1, max_length=256)]
    reason: Text
    until: UtcTime
    hold_id: Name | None = None
    window: Name | None = None


class Latch(Part):
    """The loop switched by itself to this generation, and nobody has acknowledged it yet."""

    generation: Generation
    decision_id: Name | None = None


class Asked(Part):
    """What a person asked for, word for word."""

    decision_type: DecisionType
    occasion: Occasion
    rationale: Text
    requested_by: Annotated[str, Field(max_length=256)]
    approvals_required: Annotated[int, Field(ge=1, le=10)] | None = None
    sync_env: dict[EnvKey, SecretOrigin] | None = Field(default=None, description="secrets by name, and from where")
    despite_hold: Text | None = Field(default=None, description="why it cannot wait for the end of a hold")
    proof: AskedProof | None = Field(default=None, description="that who asked signed it; absent: a typed name")


class Standby(Part):
    """A decision made in advance, for the day on which no control host is left: where it may run, and until when."""

    runner_ref: Name
    until: UtcTime


class DecisionInputs(Part):
    """Everything that a decision was computed from. `asked`: a person did, and no signal was judged."""

    schema_: Literal["hyops/decision-inputs/v1"] = Field(default="hyops/decision-inputs/v1", alias="schema")
    at: UtcTime
    now_s: float
    policy: ServicePolicy
    mode: Mode
    series: list[Series] = Field(default_factory=list, max_length=1000)
    past: list[Past] = Field(default_factory=list, max_length=64)
    hold: Hold | None = None
    latch: Latch | None = None
    scale: Annotated[int, Field(ge=0)] | None = Field(default=None, description="steps of burst confirmed; None: none")
    asked: Asked | None = None
    standby: Standby | None = None

    def encoded(self) -> bytes:
        """The bytes of the file `inputs/<hex of their digest>.json`."""
        return canonical.encode(self.body()) + b"\n"
