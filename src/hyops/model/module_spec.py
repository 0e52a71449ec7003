"""Modules of the catalogue: what one takes, which driver and pack do it, and what it publishes (MOD-1).

catalog/modules/<module_ref>/spec.yml            ModuleSpec
catalog/profiles/<driver>/<profile_ref>.yml      DriverProfile: how a driver works
catalog/packs/<driver>/<pack>/                   what the driver runs

A module whose spec has `step` is done by a runner's own driver, of the same name, as a step of a plan: it has neither
profile nor pack, and a route may lead to it (DSP-1).
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyops.model.base import Name, Part, Text
from hyops.model.plan import ModuleRef
from hyops.model.vocabulary import Phase

VersionedName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*@v[0-9][0-9.]*$", max_length=64)]
DriverRef = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$", max_length=64)]
INPUT_OF_A_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # what `{{ name }}` can hold
OF_EVERY_PLAN = {"env", "service"}
OutputKey = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$")]


class InputSpec(Part):
    """One input. A mapping with `keys` is closed: no other key may stand in it."""

    type: Literal["text", "integer", "number", "boolean", "list", "mapping", "path"]
    about: Text
    required: bool = False
    default: Any = None
    choices: list[str] | None = Field(default=None, max_length=100)
    pattern: Annotated[str, Field(max_length=500)] | None = None
    minimum: int | None = None
    maximum: int | None = None
    keys: dict[Name, InputSpec] | None = None
    each: InputSpec | None = Field(default=None, description="what every item of a list, or value of a mapping, is")

    @model_validator(mode="after")
    def _whole(self) -> InputSpec:
        if self.required and self.default is not None:
            raise ValueError("an input that is required has no default")
        if self.keys is not None and (self.type != "mapping" or self.each is not None):
            raise ValueError("`keys` are those of a mapping, and exclude `each`")
        if self.pattern is not None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", FutureWarning)  # a set that a later Python reads in another way
                    re.compile(self.pattern)
            except (re.error, FutureWarning, OverflowError, RecursionError) as exc:
                raise ValueError(f"pattern: {exc}") from exc
        return self


class RunnerStep(Part):
    """What a module is when it is the one step of a plan."""

    phase: Phase
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 60.0


class ModuleSpec(Part):
    """`spec.yml`. Only what stands in `outputs` goes into the module's state; one with `step` keeps none."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["ModuleSpec"]
    module_ref: ModuleRef
    title: Text
    driver: DriverRef
    profile: VersionedName | None = Field(default=None, description="needed where there is no `step`")
    pack: VersionedName | None = Field(default=None, description="needed where there is no `step`")
    step: RunnerStep | None = Field(default=None, description="a runner's own driver does it, as a step of a plan")
    inputs: dict[Name, InputSpec]
    constants: dict[Name, str] = Field(default_factory=dict, description="handed to the pack as they are")
    outputs: list[OutputKey] = Field(max_length=100)

    @model_validator(mode="after")
    def _done_in_one_way(self) -> ModuleSpec:
        if self.step is None:
            if self.profile is None or self.pack is None:
                raise ValueError("profile and pack are needed, or `step` where a runner's own driver does it")
            return self
        if self.profile or self.pack or self.constants or self.outputs:
            raise ValueError(
                "with `step` there is no profile, no pack, no constants and no outputs: nothing reads them"
            )
        if self.driver != self.module_ref:
            raise ValueError(f"a runner knows its driver by the module's reference: driver must be {self.module_ref}")
        if wrong := sorted(
            name for name in self.inputs if not INPUT_OF_A_STEP.fullmatch(name) or name in OF_EVERY_PLAN
        ):
            raise ValueError(f"input {wrong[0]!r}: with `step` letters, digits and _, and neither env nor service")
        return self


class DriverProfile(Part):
    """How a driver works for the modules that name this profile."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["DriverProfile"]
    profile_ref: VersionedName
    driver: DriverRef
    title: Text
    tool: Name
    tool_min: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$")] = Field(description="the first version that fits")
    tool_below: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$")] = Field(description="the first that does not")
    timeout_s: Annotated[float, Field(gt=0, le=86400)] = 900.0
    connect_timeout_s: Annotated[int, Field(gt=0, le=600)] = 15
    become: bool = Field(default=True, description="a login that is not root's uses sudo, without a password")
