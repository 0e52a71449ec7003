"""What a runner's drivers need of its host (`options` in `/etc/hyops/runner.json`): keys, logins, places (RUN-3).

Secrets are named by file, never written here; each file is the runner's alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.model.access import AccessOptions
from hyops.model.base import Name, Part

PathText = Annotated[str, Field(pattern=r"^/", max_length=512)]


class TargetLogin(Part):
    """How the runner enters a host that it acts on; the key there is bound to one forced command."""

    user: Name = "hyops"
    key_file: PathText
    known_hosts: PathText
    port: Annotated[int, Field(ge=1, le=65535)] = 22


class Tsig(Part):
    """The key that may update the endpoint's zone."""

    name: Name
    algorithm: Literal["hmac-sha256", "hmac-sha512"] = "hmac-sha256"
    secret_file: PathText


class Database(Part):
    """The login of write probes and row counts."""

    dbname: Name
    user: Name
    passfile: PathText
    probe_table: Name = "hyops_probe"
    ledger_table: Name = "ledger"
    ledger_column: Name = "id"


class LedgerPlace(Part):
    """The host that keeps the writers' ledger."""

    host: Name
    address: Annotated[str, Field(max_length=64)]
    login: TargetLogin


class Power(Part):
    """The switch that can cut a database host's power; it knows hosts by the names that the policy gives them."""

    url: Annotated[str, Field(pattern=r"^https?://[^/@?#\s]+(/[^@?#\s]*)?$", max_length=512)]
    token_file: PathText
    ca_file: PathText | None = None
    limit_s: Annotated[float, Field(gt=0, le=10, description="for one call")] = 3.0
    head_start_s: Annotated[float, Field(ge=0, le=30, description="for gentler means of fencing")] = 1.0


class RunnerOptions(Part):
    """All of it; without `ledger` the loss is not counted and says so, without `power` nothing is powered off."""

    targets: TargetLogin
    tsig: list[Tsig] = Field(default_factory=list)
    database: Database
    ledger: LedgerPlace | None = None
    power: Power | None = None
    access: AccessOptions = Field(default_factory=AccessOptions)
