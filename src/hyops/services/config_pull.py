"""The configuration file of a pull desk: strict, as every service's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.model import pull
from hyops.model.base import Name, Part
from hyops.services.config import PathText


class PullDeskConfig(Part):
    """`hyops service run pull-desk`: where agents of runners ask, and whose certificates are believed.

    `ca_file` signs the agents' certificates, whose common name is the runner's reference; `crl_file` is its list of
    revoked ones. `group` may open `socket`: the executor's, and that of people who use `hyops runner`.
    """

    api_version: Literal["hybridops/v1"]
    kind: Literal["PullDesk"]
    address: Annotated[str, Field(max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    certificate: PathText
    key: PathText
    ca_file: PathText
    crl_file: PathText
    runner_refs: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    socket: Annotated[PathText, Field(max_length=100)] = "/run/hyops-pull/desk.sock"
    group: Name | None = None
    hold_s: Annotated[float, Field(gt=0, le=pull.HOLD_MAX_S, description="an answer is held at most this long")] = 10.0
    grace_s: Annotated[float, Field(gt=0, le=60, description="an agent may be this late")] = 5.0
