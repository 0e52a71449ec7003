"""Where the standing runners are, as a person writes it down for whoever selects one (RUN-2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyops.model.base import Name, Part
from hyops.model.vocabulary import DecisionType, TargetCloud


class RunnerPlace(Part):
    """One runner. `reached_through`: the sites that the way to it passes, besides its own."""

    site: Name
    reached_through: list[Name] = Field(default_factory=list, max_length=16)
    seal_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")] | None = Field(
        default=None, description="what `hyops secrets seal-key` printed on the runner: secrets for it are sealed"
    )
    state_ref: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="`<module_ref>[#<instance>]`: the state record that its making leaves in this root"
    )
    bootstrap: list[Annotated[str, Field(min_length=1, max_length=1024)]] = Field(
        default_factory=list, max_length=64, description="the command, word by word, that makes this runner anew"
    )


class RunnerMap(Part):
    """`runners.yml`. `host_sites` says where the services' hosts are, and goes before what a plan says."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["RunnerMap"]
    runners: dict[Name, RunnerPlace] = Field(min_length=1, max_length=1000)
    onprem_sites: list[Name] = Field(min_length=1, max_length=100, description="failback runs there and nowhere else")
    host_sites: dict[Name, Name] = Field(default_factory=dict, max_length=10000)
    mapping: dict[str, Name] = Field(
        default_factory=dict, max_length=100, description="`<target_cloud>/<decision_type>` -> the runner for it"
    )

    @model_validator(mode="after")
    def _known(self) -> RunnerMap:
        sites = {place.site for place in self.runners.values()} | set(self.host_sites.values())
        if lost := sorted(set(self.onprem_sites) - sites):
            raise ValueError(f"onprem_sites: nothing is in {', '.join(lost)}")
        known = {f"{cloud}/{kind}" for cloud in TargetCloud for kind in DecisionType}
        if strange := sorted(self.mapping.keys() - known):
            raise ValueError(f"mapping.{strange[0]}: not <target_cloud>/<decision_type>, as in gcp/failover")
        if nowhere := sorted(set(self.mapping.values()) - self.runners.keys()):
            raise ValueError(f"mapping: {', '.join(nowhere)} is not among runners")
        return self
