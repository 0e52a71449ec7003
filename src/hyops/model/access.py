"""Access modes: what a person defines for a runner, and what a run resolved and checked (VOC-3, ACC-1, EVD-1)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hyops.model.base import Name, Part, Text, UtcTime
from hyops.model.vocabulary import ExecutionPlane

PathText = Annotated[str, Field(pattern=r"^/", max_length=512)]
Port = Annotated[int, Field(ge=1, le=65535)]
Limit = Annotated[float, Field(gt=0, le=60)]
Cloudy = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")]


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value))


Address = Annotated[str, Field(max_length=64), AfterValidator(_address)]
Network = Annotated[str, Field(max_length=64), AfterValidator(_network)]

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"]
"""RFC 1918, RFC 6598 and RFC 4193; a site that numbers its private network otherwise says so."""


OPEN_MAX_S = 4 * 3600.0
PREFIX_MIN = {4: 28, 6: 124}  # a few addresses of one office or runner; a provider's range is everybody


class PublicAccess(Part):
    """What a route, and the plan that people approve, say of a way in over a public address: why, whence, how long."""

    occasion: Literal["drill", "break-glass"] = Field(
        description="drill: the environment is for drills; break-glass: its approval must be one"
    )
    source_ranges: list[Network] = Field(min_length=1, max_length=1, description="the one place that is let in")
    expires_after_s: Annotated[float, Field(ge=1, le=OPEN_MAX_S)]

    @model_validator(mode="after")
    def _restricted(self) -> PublicAccess:
        if wide := [source for source in self.source_ranges if not restricted(source)]:
            raise ValueError(f"source_ranges: {wide[0]} is no restricted source; give one address, or a few")
        return self


def restricted(source: str) -> bool:
    """Whether a network is a few addresses of one place."""
    network = ipaddress.ip_network(source)
    return network.prefixlen >= PREFIX_MIN[network.version]


class Bastion(Part):
    """One jump host. Its host key is pinned in `known_hosts` under its name; `key_file` may only forward there."""

    address: Address
    port: Port = 22
    user: Name
    key_file: PathText
    known_hosts: PathText
    site: Name


class Overlay(Part):
    """A WireGuard interface and the one peer that is the way. `hub_site` is where that peer's endpoint stands."""

    interface: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
    peer_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
    hub_site: Name
    handshake_age_s_max: Annotated[float, Field(gt=0, le=180)] = 180.0
    hops_max: Annotated[int, Field(ge=1, le=30)] = 8


class Iap(Part):
    """The instance behind Google's Identity-Aware Proxy, by the names of the published API."""

    project: Annotated[str, Field(pattern=r"^[a-z][-a-z0-9]{4,28}[a-z0-9]$")]
    zone: Cloudy
    instance: Cloudy
    firewall_tag: Cloudy
    gcloud: PathText = "/usr/bin/gcloud"


class AccessOptions(Part):
    """`options.access` of a runner. Only what the chosen plane needs is looked at; nothing here chooses a plane."""

    private_networks: list[Network] = Field(default_factory=lambda: list(PRIVATE), max_length=64)
    site_networks: dict[Name, list[Network]] = Field(default_factory=dict, max_length=256)
    onprem_sites: list[Name] = Field(default_factory=list, max_length=100)
    drill_envs: list[Name] = Field(default_factory=list, max_length=100)
    ready_wait_s: Limit = 5.0
    bastions: dict[Name, Bastion] = Field(default_factory=dict, max_length=64)
    bastion: Name | None = Field(default=None, description="the one of `bastions` that bastion-explicit goes through")
    infer_bastion: bool = Field(default=False, description="labs and local on-prem bootstrap only (ACC-2)")
    overlay: Overlay | None = None
    iap: Iap | None = None
    grants_dir: PathText | None = Field(default=None, description="where `hyops access` keeps what it opened")
    edge: Bastion | None = Field(
        default=None,
        description="who opens public-ephemeral; its key is pinned as `edge`, ours may `hyops access serve`",
    )

    @model_validator(mode="after")
    def _known(self) -> AccessOptions:
        if self.bastion is not None and self.bastion not in self.bastions:
            raise ValueError(f"bastion: no {self.bastion!r} in bastions")
        return self


class Guarded(Part):
    """An address and port that nobody reaches from outside unless a grant says so."""

    address: Address
    port: Port = 22


class AccessDesk(Part):
    """`/etc/hyops/access.json` of the edge: what it guards, and the host outside that looks whether anybody gets in.

    The host key of `vantage` is pinned under the name `outside`; its key may only forward, to what is guarded.
    """

    api_version: Literal["hybridops/v1"]
    kind: Literal["AccessDesk"]
    grants_dir: PathText
    guarded: list[Guarded] = Field(min_length=1, max_length=64)
    vantage: Bastion


class AccessGrant(Part):
    """A way in that was opened for a while: written before the rule is made, closed only after a probe from outside."""

    schema_: Literal["hyops/access-grant/v1"] = Field(default="hyops/access-grant/v1", alias="schema")
    grant_id: Name
    state: Literal["opening", "open", "removing", "removed"]
    occasion: Literal["drill", "break-glass"]
    reason: Text
    by: Text
    source: Network
    address: Address
    port: Port
    opened_at: UtcTime
    expires_at: UtcTime
    removed_at: UtcTime | None = None
    proof: Text | None = None


class AccessCheck(Part):
    """One prerequisite that held, and what showed it."""

    prerequisite: Name
    subject: Text
    seen: Text
    elapsed_s: Annotated[float, Field(ge=0)]


class ResolvedAccess(Part):
    """How the targets of one run are reached: the plane of the approved plan, with every prerequisite that was asked.

    `limits` says what the checks could not see.
    """

    schema_: Literal["hyops/access/v1"] = Field(default="hyops/access/v1", alias="schema")
    plane: ExecutionPlane
    runner_ref: Name
    targets: list[Text] = Field(default_factory=list, max_length=64)
    through: list[Text] = Field(default_factory=list, max_length=16, description="what stands in between, by name")
    checks: list[AccessCheck] = Field(default_factory=list, max_length=512)
    limits: list[Text] = Field(default_factory=list, max_length=16)
    resolved_at: UtcTime
