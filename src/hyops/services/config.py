"""The stages' configuration files (`/opt/hybridops/decision-<stage>/config/config.json`): strict, one type each.

Directories are the hand-over points of SPEC section 4; a stage writes below its own `home` and reads the others'.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.model.base import Generation, Name, Part
from hyops.model.policy import ServicePolicy

PathText = Annotated[str, Field(pattern=r"^/", max_length=512)]


class Homes(Part):
    """Where the four stages live."""

    decision: PathText = "/opt/hybridops/decision-service"
    dispatch: PathText = "/opt/hybridops/decision-dispatcher"
    approval: PathText = "/opt/hybridops/decision-consumer"
    execution: PathText = "/opt/hybridops/decision-executor"


class StageConfig(Part):
    """What every stage has."""

    api_version: Literal["hybridops/v1"]
    homes: Homes = Field(default_factory=Homes)
    signing_key: PathText
    trusted_keys: PathText


class SshLogin(Part):
    """How another host is reached; its key is pinned."""

    address: Annotated[str, Field(max_length=253)]
    user: Name
    key_file: PathText
    known_hosts: PathText
    port: Annotated[int, Field(ge=1, le=65535)] = 22


class Protected(Part):
    """A service, and the generation it had when it was set up."""

    policy: ServicePolicy
    initial_generation: Generation = 1


class People(Part):
    """Whose OpenSSH signatures count on this host: the files of the approval stage, or others."""

    allowed_signers: PathText
    approvers: PathText
    revoked_signers: PathText | None = None


class DecisionConfig(StageConfig):
    """`decision-service`: one process per protected service. A vantage without a login is this host."""

    kind: Literal["DecisionService"]
    protected: Protected
    vantages: dict[Name, SshLogin | None]
    probe_password_file: PathText | None = None
    people: People | None = None
    """Who may hold the service; without it nobody can, and every record of a hold is told of and changes nothing."""
