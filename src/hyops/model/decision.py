"""The decision record: what should be done and why (DEC-1). It only says; it never acts."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hyops.model.asking import KeyFingerprint
from hyops.model.base import Digest, EnvKey, Generation, Name, Part, Record, Text, UtcTime
from hyops.model.signal import Check
from hyops.model.vocabulary import (
    CHECK_SPELLINGS,
    SPELLINGS,
    Condition,
    CutoverMode,
    DecisionType,
    Direction,
    DrMode,
    ExecutionPlane,
    Level,
    Occasion,
    SecretOrigin,
    TargetCloud,
)


class Scaling(Part):
    """Of a burst: which way, from and to how many steps above the size of every day (0)."""

    direction: Direction
    size_before: Annotated[int, Field(ge=0)]
    size_after: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _one_step(self) -> Scaling:
        step = 1 if self.direction is Direction.OUT else -1
        if self.size_after - self.size_before != step:
            raise ValueError(f"direction {self.direction} is one step, not {self.size_before} to {self.size_after}")
        return self


class CutoverPolicy(Part):
    """How traffic moves once the target is verified (DEC-1a)."""

    mode: CutoverMode = CutoverMode.AUTOMATIC
    ttl_s: Annotated[int, Field(ge=0, le=86400)] | None = Field(
        default=None, description="of the record after the move"
    )
    order: list[Annotated[str, Field(min_length=1, max_length=253)]] | None = Field(
        default=None, min_length=1, max_length=64, description="endpoint names, the first to move first; all of them"
    )


class Decision(Record):
    """What should be done, from which inputs. Hand-written minimal records (DSP-3) leave most fields out."""

    kind: ClassVar[str] = "decision"
    id_field: ClassVar[str] = "decision_id"

    decision_id: Name
    decision_type: DecisionType
    source_decision_type: Name | None = None
    rationale: Text
    checks: list[Check] = Field(default_factory=list, max_length=1000)
    schema_: Literal["hyops/decision/v1"] | None = Field(default=None, alias="schema")
    timestamp_utc: UtcTime | None = None
    expires_at: UtcTime | None = None
    level: Level = Level.RECOMMEND
    occasion: Occasion = Occasion.UNPLANNED
    service: Name | None = None
    generation: Generation | None = None
    target_cloud: TargetCloud = TargetCloud.NONE
    dr_mode: DrMode | None = None
    execution_plane: ExecutionPlane | None = None
    runner_ref: Name | None = None
    requires_approval: bool = True
    approvals_required: Annotated[int, Field(ge=1, le=10)] | None = None
    repo_state_ref: Text | None = None
    confidence: float | None = None
    inputs_digest: Digest | None = None
    env: Name | None = None
    dry_run: bool = False
    workload_profile_ref: Name | None = None
    secondary_backup_copy_required: bool | None = None
    secret_sync_profile: Name | None = None
    sync_env: Annotated[dict[EnvKey, SecretOrigin], Field(max_length=1000)] | None = None
    cutover_policy: CutoverPolicy | None = None
    scaling: Scaling | None = None
    incident: Annotated[str, Field(max_length=128)] | None = None
    requested_by: Annotated[str, Field(max_length=256)] | None = None
    requester_key: KeyFingerprint | None = Field(default=None, description="the SSH key that proved who asked")
    condition: Condition | None = None

    @classmethod
    def respelled(cls, value: Any) -> Any:
        """Older words for the decision type become the ones of today, and the original is kept (VOC-1)."""
        if not isinstance(value, dict):
            return value
        word = value.get("decision_type")
        if isinstance(word, str) and word in SPELLINGS and "source_decision_type" not in value:
            value = {**value, "decision_type": str(SPELLINGS[word]), "source_decision_type": word}
        if isinstance(value.get("checks"), list):
            value = {**value, "checks": [_respelled_check(check) for check in value["checks"]]}
        return value


def _respelled_check(check: Any) -> Any:
    """`degraded` and its like, as hand-written records have them (DSP-3), are `bad`; the word is kept as reason."""
    if isinstance(check, dict) and isinstance(check.get("status"), str) and check["status"] in CHECK_SPELLINGS:
        word = check["status"]
        return {"reason": word, **check, "status": str(CHECK_SPELLINGS[word])}
    return check
