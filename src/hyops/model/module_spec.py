"""Modules of the catalogue: what one takes, which driver and pack do it, and what it publishes (MOD-1).

catalog/modules/<module_ref>/spec.yml            ModuleSpec
catalog/profiles/<driver>/<profile_ref>.yml      DriverProfile: how a driver works
catalog/packs/<driver>/<pack>/                   what the driver runs
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyops.model.base import Name, Part, Text
from hyops.model.plan import ModuleRef

VersionedName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*@v[0-9][0-9.]*$", max_length=64)]
DriverRef = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$", max_length=64)]
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


class ModuleSpec(Part):
    """`spec.yml`. Only what stands in `outputs` goes into the module's state."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["ModuleSpec"]
    module_ref: ModuleRef
    title: Text
    driver: DriverRef
    profile: VersionedName
    pack: VersionedName
    inputs: dict[Name, InputSpec]
    constants: dict[Name, str] = Field(default_factory=dict, description="handed to the pack as they are")
    outputs: list[OutputKey] = Field(max_length=100)


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
