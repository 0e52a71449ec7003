"""The file of one fence agent (`/etc/hyops/fence-agent.json`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hyops.fence.lease import LeaseTimes
from hyops.model.base import Name, Part, Text
from hyops.model.policy import Lease, Member
from hyops.model.vocabulary import ReceiptClass

PathText = Annotated[str, Field(pattern=r"^/", max_length=512)]


class PostgresConfig(Part):
    """Where the cluster is. `source`: connection words for following and rewinding (user, passfile, ...)."""

    data_dir: PathText = "/var/lib/postgresql/15/main"
    bin_dir: PathText = "/usr/lib/postgresql/15/bin"
    socket_dir: PathText = "/var/run/postgresql"
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    os_user: Name | None = "postgres"
    unit: Text | None = "postgresql@15-main.service"
    options: Text = "-c config_file=/etc/postgresql/15/main/postgresql.conf"
    log_file: PathText | None = None
    source: dict[str, str] = Field(default_factory=lambda: {"user": "replicator"})

    @field_validator("source")
    @classmethod
    def _no_secret(cls, source: dict[str, str]) -> dict[str, str]:
        """These words reach the argv of psql and pg_rewind (INV-10)."""
        if secret := sorted(source.keys() & {"password", "sslpassword"}):
            raise ValueError(f"{', '.join(secret)}: would stand in the process list; name a passfile")
        return source


class FenceAgentConfig(Part):
    """Everything about one agent; unknown keys are refused."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["FenceAgent"]
    service: Name
    host: Name
    members: list[Member] = Field(min_length=2)
    lease: Lease
    renew_s: Annotated[float, Field(gt=0, le=60)] | None = None
    stop_after_s: Annotated[float, Field(ge=0, le=60)] = 1.0
    receipts: list[ReceiptClass] = Field(min_length=1)
    monitors: list[Text] = Field(default_factory=list, description="addresses that may reach a standby")
    trusted_keys: PathText = "/etc/hyops/trusted_keys.json"
    state_file: PathText = "/var/lib/hyops/fence-agent/state.json"
    socket: PathText = "/run/hyops/fence-agent.sock"
    group: Name | None = "hyops"
    postgres: PostgresConfig = Field(default_factory=PostgresConfig)

    @model_validator(mode="after")
    def _consistent(self) -> FenceAgentConfig:
        if self.host not in {member.host for member in self.members}:
            raise ValueError(f"host {self.host!r} is not a member")
        if not self.lease.endpoints:
            raise ValueError("lease.endpoints: the agent needs a quorum store")
        if ReceiptClass.LEASE_EXPIRED in self.receipts and self.lease.on_loss == "stay":
            raise ValueError("receipts: lease-expired proves nothing with on_loss: stay")
        if self.renew_s is not None and self.renew_s > self.lease.ttl_s / 3:
            raise ValueError("renew_s: at most a third of lease.ttl_s, or one lost request closes a healthy primary")
        return self

    def times(self) -> LeaseTimes:
        """The agent's durations; it renews eight times per ttl unless told otherwise."""
        return LeaseTimes(
            ttl_s=self.lease.ttl_s,
            renew_s=self.renew_s or self.lease.ttl_s / 8,
            stop_after_s=self.stop_after_s,
            on_loss=self.lease.on_loss,
        )

    def member(self) -> Member:
        """This host."""
        return next(member for member in self.members if member.host == self.host)

    def peers(self) -> list[str]:
        """The addresses that may replicate while this host hands over."""
        return [member.address for member in self.members if member.host != self.host]
