"""One file per protected service: what it is, what is watched, when to act (DEC-4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyops.model.base import Name, Part, Text
from hyops.model.decision import CutoverPolicy
from hyops.model.etcd import EtcdAccess
from hyops.model.vocabulary import DrMode, ExecutionPlane, Level, ReceiptClass, TargetCloud

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Seconds = Annotated[float, Field(ge=0, le=86400)]
Pace = Annotated[float, Field(gt=0, le=86400)]
Objective = Annotated[float, Field(ge=0, le=30 * 86400)]


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


SERVER_FAILS = 500
"""A status of this and above is what an HTTP probe takes for a loss, unless the policy expects it."""


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
    about: Literal["primary", "target", "pressure"] = "primary"
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
    interval_s: Pace = 0.25
    timeout_s: Pace = 0.7

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


class MaintenanceWindow(Part):
    """A time each week at which the loop holds still, in the zone's own time."""

    name: Name
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(min_length=1, max_length=7)
    at: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] = Field(description="HH:MM of its beginning")
    for_s: Annotated[float, Field(ge=60, le=86400)]
    time_zone: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,63}$")] = "UTC"
    owner: Annotated[str, Field(min_length=1, max_length=256)]
    reason: Annotated[Text, Field(min_length=1)]


class Burst(Part):
    """Capacity for a while: out when signals about pressure stand, in again, later and slower, when none does.

    Size is counted in steps above that of every day; the n-th profile is what n steps have.
    """

    profiles: list[Name] = Field(min_length=2, max_length=16, description="of the size of every day, then one per step")
    confirm_for_s: Seconds = 120.0
    stable_for_s: Seconds = 1800.0
    cooldown_s: Seconds = 600.0
    confidence_min: Annotated[float, Field(gt=0, le=1)] = 0.6
    level: Level = Level.RECOMMEND
    target_cloud: TargetCloud
    runner_ref: Name
    execution_plane: ExecutionPlane
    checks: list[Name] = Field(
        default_factory=list, description="target signals, as of billing and quota, that must be ok"
    )

    @model_validator(mode="after")
    def _cautious(self) -> Burst:
        if self.stable_for_s < self.confirm_for_s:
            raise ValueError("stable_for_s is shorter than confirm_for_s: giving capacity back is the slower one")
        if len(set(self.profiles)) != len(self.profiles):
            raise ValueError("a profile stands twice")
        return self


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
    latch: bool | None = Field(
        default=None,
        description="after an automatic failover nothing is triggered until a person acknowledges; no: false",
    )
    requires_approval: bool | None = Field(
        default=None,
        description="people approve what is triggered, whatever the route says; leave it to the route: false",
    )
    maintenance: list[MaintenanceWindow] | None = Field(default=None, max_length=64)
    burst: Burst | None = None
    workload_profile_ref: Name | None = Field(
        default=None, description="sizes the target; the routes' profiles name it"
    )
    secondary_backup_copy_required: bool | None = None
    secret_sync_profile: Name | None = Field(default=None, description="what the secrets phase syncs, of the routes'")
    cutover_policy: CutoverPolicy | None = None
    dr_mode: DrMode = DrMode.WARM_PROMOTE
    execution_plane: ExecutionPlane = ExecutionPlane.RUNNER_LOCAL
    receipts: list[ReceiptClass] = Field(min_length=1, description="fence receipt classes that suffice")
    decision_max_age_s: Annotated[float, Field(gt=0, le=30 * 86400)] = 600.0
    rto_s: Objective | None = None
    rpo_s: Objective | None = None
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
        self._bursts()
        vantages = {v for s in self.signals if s.about == "primary" for v in s.vantages}
        if self.quorum > max(len(vantages), 1):
            raise ValueError(f"quorum {self.quorum} is more than the {len(vantages)} vantage points")
        return self

    def _bursts(self) -> None:
        pressure = [signal.name for signal in self.signals if signal.about == "pressure"]
        if self.burst is None:
            if pressure:
                raise ValueError(f"signal {pressure[0]} is about pressure, and there is no burst")
            return
        if not pressure:
            raise ValueError("burst: no signal is about pressure, so nothing could ever ask for it")
        targets = {signal.name for signal in self.signals if signal.about == "target"}
        if unknown := sorted(set(self.burst.checks) - targets):
            raise ValueError(f"burst.checks: {unknown[0]} is no signal about the target")

    def member(self, host: str) -> Member:
        """The member on `host`; raises KeyError when there is none."""
        return next(m for m in self.members if m.host == host)
