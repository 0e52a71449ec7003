"""The stages' configuration files (`/opt/hybridops/decision-<stage>/config/config.json`): strict, one type each.

Directories are the hand-over points of SPEC section 4; a stage writes below its own `home` and reads the others'.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.base import Generation, Name, Part
from hyops.model.etcd import EtcdStore, Store
from hyops.model.policy import ServicePolicy

PathText = Annotated[str, Field(pattern=r"^/", max_length=512)]


class Home(str):
    """A stage's folder. Its records are below it; or in `store`, under the name `stage`."""

    __slots__ = ("stage", "store")

    stage: str
    store: EtcdStore | None

    @classmethod
    def kept_in(cls, folder: str, stage: str, store: EtcdStore | None) -> Home:
        """The folder of a stage that keeps its records there."""
        home = cls(folder)
        home.stage, home.store = stage, store
        return home


class Homes(Part):
    """Where the four stages live."""

    decision: PathText = "/opt/hybridops/decision-service"
    dispatch: PathText = "/opt/hybridops/decision-dispatcher"
    approval: PathText = "/opt/hybridops/decision-consumer"
    execution: PathText = "/opt/hybridops/decision-executor"


class HealthConfig(Part):
    """`/healthz` and `/metrics`, on loopback alone."""

    port: Annotated[int, Field(ge=1024, le=65535)]


class StageConfig(Part):
    """What every stage has."""

    api_version: Literal["hybridops/v1"]
    store: Store | None = Field(default=None, description="where the records are; absent: in files below the homes")
    homes: Annotated[Homes, Field(default_factory=Homes, validate_default=True)]
    signing_key: PathText
    trusted_keys: PathText
    health: HealthConfig | None = None

    @field_validator("homes", mode="after")
    @classmethod
    def _kept(cls, homes: Homes, info: ValidationInfo) -> Homes:
        """Each home knows where its records are, so that whoever is given one need not be told."""
        store = info.data.get("store")
        kept_in = store.etcd if store is not None else None
        return homes.model_copy(update={s: Home.kept_in(f, s, kept_in) for s, f in homes.model_dump().items()})


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


class DecisionConfig(StageConfig):
    """`decision-service`: one process per protected service. A vantage without a login is this host."""

    kind: Literal["DecisionService"]
    protected: Protected
    vantages: dict[Name, SshLogin | None]
    probe_password_file: PathText | None = None


class Placement(Part):
    """The part of every stage's configuration that says where records are."""

    store: Store | None = None
    homes: Homes = Field(default_factory=Homes)


def placement_of(data: bytes, stage: str) -> Home | None:
    """The home of a stage from its configuration file; None: that is no stage, or not a readable configuration."""
    try:
        value = canonical.parse(data, source=stage)
        if not isinstance(value, dict) or stage not in Homes.model_fields:
            return None
        place = Placement.of({key: value[key] for key in ("store", "homes") if key in value})
    except RecordError:
        return None
    return Home.kept_in(getattr(place.homes, stage), stage, place.store.etcd if place.store else None)
