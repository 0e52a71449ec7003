"""Blueprints and the plan made of one: the bytes that people approve (BP-1, BP-3, INV-4).

A plan holds everything that decides what will run, and nothing that changes from incident to incident (no id, time or
generation), so the same plan has the same digest in a drill and in anger.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyops.model import canonical
from hyops.model.access import PublicAccess
from hyops.model.base import Digest, EnvKey, Name, Part, Text
from hyops.model.decision import CutoverPolicy
from hyops.model.vocabulary import DecisionType, ExecutionPlane, Phase, SecretOrigin

BlueprintRef = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9/_-]*@[a-z0-9][a-z0-9._-]*$")]
ModuleRef = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._/-]*[a-z0-9])?$")]
Instance = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
STATE_REF_MAX = 200
StepId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
OF_MODULES = "module/"
"""Where the plans of single modules have their references; no blueprint of a catalogue has its own there."""


def planned_ref(target_kind: str, target_ref: str) -> str:
    """The `blueprint_ref` of the plan of a target: a single module is planned as a blueprint of one step (DSP-2)."""
    return f"{OF_MODULES}{target_ref}@v1" if target_kind == "module" else target_ref


class Step(Part):
    """One module action. `requires` is enforced at run time: nothing runs after a failed or unknown dependency."""

    id: StepId
    module_ref: ModuleRef
    phase: Phase
    requires: list[StepId] = Field(default_factory=list)
    inputs: dict[str, Any] = Field(default_factory=dict)
    optional: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 60.0
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    title: Text | None = None
    state_instance: Instance | None = None
    publishes: list[Name] | None = Field(
        default=None, max_length=100, description="the outputs that go into the module's state; no others do"
    )

    @model_validator(mode="after")
    def _state(self) -> Step:
        ref = self.state_ref()
        if ref is not None and (".." in ref or "//" in ref or len(ref) > STATE_REF_MAX):
            raise ValueError(f"step {self.id!r} keeps state under {ref[:STATE_REF_MAX]!r}, which is no state reference")
        return self

    def state_ref(self) -> str | None:
        """`<module_ref>[#<instance>]` of the state that this step keeps; None when it keeps none (ROOT-3)."""
        if self.state_instance is None and self.publishes is None:
            return None
        return self.module_ref if self.state_instance is None else f"{self.module_ref}#{self.state_instance}"


class Blueprint(Part):
    """An ordered set of modules, as the catalogue holds it (`catalog/blueprints/<ref>/blueprint.yml`).

    Step inputs may hold `{{ name }}` for one of `inputs`; a plan has them all resolved.
    """

    api_version: Literal["hybridops/v1"]
    kind: Literal["BlueprintSpec"]
    blueprint_ref: BlueprintRef
    title: Text
    inputs: dict[str, str] = Field(default_factory=dict, description="name -> what it is; every one is required")
    steps: list[Step] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _graph(self) -> Blueprint:
        seen: set[str] = set()
        kept: set[str | None] = set()
        for step in self.steps:
            if step.state_ref() in kept - {None}:
                raise ValueError(f"step {step.id!r} keeps the state {step.state_ref()!r}, as another step does")
            kept.add(step.state_ref())
            if step.id in seen:
                raise ValueError(f"step {step.id!r} stands twice")
            for need in step.requires:
                if need not in seen:
                    raise ValueError(f"step {step.id!r} requires {need!r}, which does not stand before it")
            seen.add(step.id)
        return self


class Plan(Part):
    """A blueprint with its inputs resolved for one service, plane and runner. `digest()` is what gets approved."""

    schema_: Literal["hyops/plan/v1"] = Field(default="hyops/plan/v1", alias="schema")
    blueprint_ref: BlueprintRef
    blueprint_digest: Digest
    env: Name
    service: Name
    decision_type: DecisionType
    runner_ref: Name
    execution_plane: ExecutionPlane
    steps: list[Step]
    inputs: dict[str, Any]
    bundle: dict[str, Digest] = Field(default_factory=dict, description="file in the bundle -> digest of its bytes")
    sync_env: dict[EnvKey, SecretOrigin] | None = Field(
        default=None, max_length=1000, description="secrets that the run is handed, by name: whose value it gets"
    )
    workload_profile_ref: Name | None = None
    secret_sync_profile: Name | None = None
    secondary_backup_copy_required: bool | None = None
    cutover: CutoverPolicy | None = Field(default=None, description="how traffic moves; unset: as the steps say")
    access: PublicAccess | None = Field(default=None, description="of public-ephemeral: why, whence, how long")

    def digest(self) -> str:
        """`sha256:<hex>` of the canonical plan."""
        return canonical.digest(self.body())
