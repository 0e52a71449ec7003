"""The stages' configuration files (`/opt/hybridops/decision-<stage>/config/config.json`): strict, one type each.

Directories are the hand-over points of SPEC section 4; a stage writes below its own `home` and reads the others'.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.base import Generation, Name, Part
from hyops.model.etcd import EtcdStore, Store
from hyops.model.policy import ASKED_BY_THE_SERVICE, ServicePolicy
from hyops.ports.signals import WITNESS

PathText = Annotated[str, Field(pattern=r"^/", max_length=512)]
Witness = Annotated[str, Field(pattern=WITNESS, max_length=128)]
SERVICES_MAX = 2000
BYTES_MAX = 64 * 1024 * 1024


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


class AlertmanagerConfig(Part):
    """Where Alertmanager's webhook is heard; beyond loopback only with TLS and a token or client certificates."""

    address: Annotated[str, Field(max_length=64)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 9799
    token_file: PathText | None = None
    certificate: PathText | None = None
    key: PathText | None = None
    client_ca: PathText | None = None

    @model_validator(mode="after")
    def _guarded(self) -> AlertmanagerConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key: without TLS nobody shows a certificate")
        if not self.address.startswith("127.") and self.address != "::1":
            if self.certificate is None:
                raise ValueError(f"address {self.address!r} is not loopback, so it needs certificate and key")
            if self.token_file is None and self.client_ca is None:
                raise ValueError(f"address {self.address!r} is not loopback, so it needs token_file or client_ca")
        return self


class People(Part):
    """Whose OpenSSH signatures count on this host: the files of the approval stage, or others."""

    allowed_signers: PathText
    approvers: PathText
    revoked_signers: PathText | None = None


class DecisionConfig(StageConfig):
    """`decision-service`: one process for the services that stand in `protected`; a single one may stand there alone.

    A vantage without a login is this host. `witnesses`: what a vantage point must reach to be well itself.
    """

    kind: Literal["DecisionService"]
    protected: list[Protected] = Field(min_length=1, max_length=SERVICES_MAX)
    vantages: dict[Name, SshLogin | None]
    witnesses: dict[Name, Annotated[list[Witness], Field(min_length=1, max_length=8)]] | None = None
    probe_password_file: PathText | None = None
    alertmanager: AlertmanagerConfig | None = None
    people: People | None = None
    """Who may hold the service; without it nobody can, and every record of a hold is told of and changes nothing."""

    @model_validator(mode="after")
    def _consistent(self) -> DecisionConfig:
        names = [protected.policy.service for protected in self.protected]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"service {name!r} stands twice in protected")
        for vantage in self.witnesses or {}:
            if vantage not in self.vantages and vantage not in ASKED_BY_THE_SERVICE:
                raise ValueError(f"witnesses: {vantage!r} is none of the vantages")
        for protected in self.protected:
            if self.alertmanager is None and any(s.source == "alertmanager" for s in protected.policy.signals):
                name = protected.policy.service
                raise ValueError(f"{name} has alertmanager signals: say in `alertmanager` where they are heard")
        return self

    @classmethod
    def respelled(cls, value: Any) -> Any:
        """A single service, as it stood there before there could be several."""
        if isinstance(value, dict) and isinstance(value.get("protected"), dict):
            return {**value, "protected": [value["protected"]]}
        return value

    @classmethod
    def read(cls, data: bytes, *, source: str = "record") -> DecisionConfig:
        """As every record, but as large as so many policies are.

        Raises:
            RecordError: names `source` and every wrong key.
        """
        return cls._parsed(cls.respelled(canonical.parse(data, source=source, bytes_max=BYTES_MAX)), source)

    @classmethod
    def read_each(cls, data: bytes, *, source: str) -> tuple[DecisionConfig, dict[str, str]]:
        """What can be served, and what is wrong with each service that cannot: its error stops nobody else.

        Raises:
            RecordError: the rest of the file is wrong, or no service in it is right.
        """
        value = cls.respelled(canonical.parse(data, source=source, bytes_max=BYTES_MAX))
        entries = value.get("protected") if isinstance(value, dict) else None
        if not isinstance(entries, list) or len(entries) < 2:
            return cls._parsed(value, source), {}
        try:
            return cls._parsed(value, source), {}
        except RecordError as exc:
            first = exc
        good, faults = [], {}
        for number, entry in enumerate(entries):
            try:
                cls._parsed({**value, "protected": [entry]}, source)
            except RecordError as exc:
                faults[_name_of(entry, number)] = exc.message
            else:
                good.append(entry)
        if not good or not faults:  # none is right; or each is, but not beside the others
            raise first
        return cls._parsed({**value, "protected": good}, source), faults

    @classmethod
    def _parsed(cls, value: Any, source: str) -> DecisionConfig:
        try:
            return cls.model_validate_json(canonical.encode(value))
        except ValidationError as exc:
            faults = [f"{'.'.join(str(p) for p in e['loc']) or '(top)'}: {e['msg']}" for e in exc.errors()]
            raise RecordError(f"{source}: " + "; ".join(faults)) from exc

    def about(self, service: str) -> Protected | None:
        """What is known of one service; None when it is not among them."""
        return next((p for p in self.protected if p.policy.service == service), None)


def _name_of(entry: Any, number: int) -> str:
    policy = entry.get("policy") if isinstance(entry, dict) else None
    name = policy.get("service") if isinstance(policy, dict) else None
    return name if isinstance(name, str) else f"protected.{number}"


class Placement(Part):
    """The part of every stage's configuration that says where records are."""

    store: Store | None = None
    homes: Homes = Field(default_factory=Homes)


def placement_of(data: bytes, stage: str) -> Home | None:
    """The home of a stage from its configuration file; None: that is no stage, or not a readable configuration."""
    try:
        value = canonical.parse(data, source=stage, bytes_max=BYTES_MAX)
        if not isinstance(value, dict) or stage not in Homes.model_fields:
            return None
        place = Placement.of({key: value[key] for key in ("store", "homes") if key in value})
    except RecordError:
        return None
    return Home.kept_in(getattr(place.homes, stage), stage, place.store.etcd if place.store else None)
