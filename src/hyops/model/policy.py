"""One file per protected service: what it is, what is watched, when to act (DEC-4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyops.model.base import Name, Part, Text
from hyops.model.etcd import EtcdAccess
from hyops.model.vocabulary import DrMode, ExecutionPlane, Level, ReceiptClass, TargetCloud

Seconds = Annotated[float, Field(ge=0, le=86400)]


MEASURES = ("primary", "standby", "wal_received", "lag_bytes")
"""What can be asked of PostgreSQL: 1 if it is primary, 1 if it is in recovery, the age in seconds of the newest WAL
message, the bytes of WAL received and not yet replayed."""


class Member(Part):
    """A host that can hold the database."""

    host: Name
    site: Name
    address: Annotated[str, Field(max_length=64)]
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    target_cloud: TargetCloud = TargetCloud.NONE
    runner_ref: Name


ASKED_BY_THE_SERVICE = ("prometheus", "alertmanager", "file")
"""No vantage point looks at these: the decision service itself hears them, and they have no vote of their own."""


class Expected(Part):
    """What an HTTP probe takes for an answer of a service that is well."""

    status: list[Annotated[int, Field(ge=100, le=599)]] = Field(default_factory=lambda: [200], min_length=1)
    contains: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    redirects: Annotated[int, Field(ge=0, le=5)] = Field(default=0, description="how many are followed; more: unknown")
    ca_file: Annotated[str, Field(pattern=r"^/", max_length=512)] | None = Field(
        default=None, description="who signs the certificate, on the vantage point; unset: whom its system trusts"
    )


class Signal(Part):
    """One thing that is watched. `absence` says what a missing series means (DEC-3): `bad` only where declared.

    What is new here is None by default: it stays out of the bytes of policies that do not use it, so decisions that
    were recorded before it came replay as they were (DEC-5).
    """

    name: Name
    source: Literal["postgresql", "tcp", "dns", "http", "prometheus", "alertmanager", "file"]
    vantages: list[Name] = Field(
        default_factory=list, description="empty for prometheus, alertmanager and file: the service itself asks"
    )
    about: Literal["primary", "target"] = "primary"
    query: Text | None = None
    select: dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], Text] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="labels of the one series of the answer (prometheus) or of the alerts (alertmanager) that is meant",
    )
    dead_man: dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], Text] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="alertmanager: labels of an alert that always fires; while it is repeated, no alert means well",
    )
    expect: Expected | None = Field(default=None, description="http: what is taken for well; unset: status 200")
    url: Text | None = None
    threshold: float = 1.0
    leave_threshold: float | None = None
    comparator: Literal["gte", "lte"] = "gte"
    weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    max_age_s: Seconds = 2.0
    absence: Literal["unknown", "bad"] = "unknown"
    interval_s: Annotated[float, Field(gt=0)] = 0.25
    timeout_s: Annotated[float, Field(gt=0)] = 0.7

    @model_validator(mode="after")
    def _complete(self) -> Signal:
        if self.source == "prometheus" and not (self.query and self.url):
            raise ValueError("a prometheus signal needs url and query")
        if self.source in ASKED_BY_THE_SERVICE and self.vantages and self.source != "prometheus":
            raise ValueError(f"no vantage point looks at a signal of source {self.source}: leave vantages empty")
        if self.source not in ASKED_BY_THE_SERVICE and not self.vantages:
            raise ValueError("a probed signal names its vantages")
        self._of_its_source()
        if self.source == "postgresql" and self.measure not in MEASURES:
            raise ValueError(f"query {self.measure!r} is none of {', '.join(MEASURES)}")
        if self.source == "postgresql" and self.measure == "wal_received" and self.comparator != "lte":
            raise ValueError("wal_received is an age in seconds, so it needs comparator: lte")
        return self

    def _of_its_source(self) -> None:
        """What only one source knows stands with that source."""
        if self.source == "alertmanager" and not self.select:
            raise ValueError("an alertmanager signal needs select: the labels of the alerts that it is about")
        if self.source == "alertmanager" and (self.comparator, self.threshold, self.leave_threshold) != (
            "gte",
            1.0,
            None,
        ):
            raise ValueError(
                "an alertmanager signal is 1 when nothing fires and 0 when it does: leave its thresholds out"
            )
        if self.source == "file" and not (self.url or "").startswith("file:///"):
            raise ValueError("a file signal needs url: file:///path of the file")
        if self.source == "http" and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError("an http signal needs url: http:// or https://; $address and $port stand for the member")
        for key, sources in (("select", ("prometheus", "alertmanager")), ("dead_man", ("alertmanager",)),
                             ("expect", ("http",))):  # fmt: skip
            if getattr(self, key) is not None and self.source not in sources:
                raise ValueError(f"{key} is for source {' or '.join(sources)}, not {self.source}")

    @property
    def measure(self) -> str:
        """What a postgresql signal measures: its `query`, or its name if that is a measure, or what it is about."""
        about = "primary" if self.about == "primary" else "standby"
        return self.query or (self.name if self.name in MEASURES else about)


class Endpoint(Part):
    """Where clients find the service (DNS-1)."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    zone: Annotated[str, Field(min_length=1, max_length=253)]
    authorities: list[Text] = Field(min_length=1, description="host:port of every authority; the first takes updates")
    ttl_s: Annotated[int, Field(ge=0, le=86400)] = 30
    tsig_key_name: Name


class Lease(EtcdAccess):
    """How the right to serve writes is bounded in time (FEN-2)."""

    endpoints: list[Text] = Field(description="etcd client URLs; empty: no lease, no receipt of class lease-expired")
    ttl_s: Annotated[float, Field(ge=1, le=300)] = 2.0
    margin_s: Annotated[float, Field(ge=0.05, le=60)] = 0.25
    on_loss: Literal["self-fence", "stay"] = "self-fence"


class ServicePolicy(Part):
    """Everything about one protected service (`services/<service>.yml`)."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["ServicePolicy"]
    service: Name
    env: Name
    members: list[Member] = Field(min_length=2)
    preferred: Name = Field(description="the member that is primary when all is well")
    endpoint: Endpoint
    lease: Lease
    signals: list[Signal] = Field(min_length=1)
    quorum: Annotated[int, Field(ge=1)] = 2
    confidence_min: Annotated[float, Field(gt=0, le=1)] = 0.6
    confirm_for_s: Seconds = 1.0
    stable_for_s: Seconds = 300.0
    cooldown_s: Seconds = 60.0
    level: Level = Level.TRIGGER
    dr_mode: DrMode = DrMode.WARM_PROMOTE
    execution_plane: ExecutionPlane = ExecutionPlane.RUNNER_LOCAL
    receipts: list[ReceiptClass] = Field(min_length=1, description="fence receipt classes that suffice")
    decision_max_age_s: Annotated[float, Field(gt=0)] = 600.0
    rto_s: float | None = None
    rpo_s: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> ServicePolicy:
        hosts = [member.host for member in self.members]
        if len(set(hosts)) != len(hosts):
            raise ValueError("a member host stands twice")
        if self.preferred not in hosts:
            raise ValueError(f"preferred {self.preferred!r} is not a member")
        if ReceiptClass.LEASE_EXPIRED in self.receipts and (self.lease.on_loss == "stay" or not self.lease.endpoints):
            raise ValueError("receipts: lease-expired proves nothing with on_loss: stay or without lease endpoints")
        vantages = {v for s in self.signals if s.about == "primary" for v in s.vantages}
        if self.quorum > max(len(vantages), 1):
            raise ValueError(f"quorum {self.quorum} is more than the {len(vantages)} vantage points")
        return self

    def member(self, host: str) -> Member:
        """The member on `host`; raises KeyError when there is none."""
        return next(m for m in self.members if m.host == host)
