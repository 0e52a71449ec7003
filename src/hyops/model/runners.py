"""Where the standing runners are, as a person writes it down for whoever selects one (RUN-2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hyops.model.base import Name, Part


class RunnerPlace(Part):
    """One runner. `reached_through`: the sites that the way to it passes, besides its own."""

    site: Name
    reached_through: list[Name] = Field(default_factory=list, max_length=16)


class RunnerMap(Part):
    """`runners.yml`. `host_sites` says where the services' hosts are, and goes before what a plan says."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["RunnerMap"]
    runners: dict[Name, RunnerPlace] = Field(min_length=1, max_length=1000)
    onprem_sites: list[Name] = Field(min_length=1, max_length=100, description="failback runs there and nowhere else")
    host_sites: dict[Name, Name] = Field(default_factory=dict, max_length=10000)

    @model_validator(mode="after")
    def _known(self) -> RunnerMap:
        sites = {place.site for place in self.runners.values()} | set(self.host_sites.values())
        if lost := sorted(set(self.onprem_sites) - sites):
            raise ValueError(f"onprem_sites: nothing is in {', '.join(lost)}")
        return self
