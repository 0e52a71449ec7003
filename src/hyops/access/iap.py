"""`gcp-iap`: one compute instance behind Google's Identity-Aware Proxy (ACC-1).

Source: Google Cloud documentation, "Using IAP for TCP forwarding" (the proxy's range, `gcloud compute
start-iap-tunnel`), and the Compute Engine REST reference v1, `instances` and `firewalls`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

from hyops.access.circumstances import Circumstances, Target
from hyops.access.mode import AccessMode, NotHeldError, Prerequisite, said
from hyops.model.access import AccessOptions, Iap
from hyops.model.vocabulary import ExecutionPlane
from hyops.ports.access import AccessProbes, CloudProbes, FirewallSeen, InstanceSeen, SshPlace

IAP_RANGE = "35.235.240.0/20"


class GcpIap(AccessMode):
    """SSH through the proxy. The instance needs no public address; a firewall rule lets the proxy's range in by tag."""

    plane = ExecutionPlane.GCP_IAP
    names = ("instance-defined", "instance-running", "instance-tagged", "firewall-admits-iap", "target-answers")
    limits = (
        "who may use the proxy (IAM) shows only by the login that follows",
        "firewall policies of a folder or an organization are not read",
    )

    def __init__(
        self,
        options: AccessOptions,
        login: SshPlace,
        probes: AccessProbes,
        *,
        cloud: CloudProbes,
    ) -> None:
        super().__init__(options, login, probes)
        self._cloud = cloud

    def prerequisites(self, run: Circumstances) -> Sequence[Prerequisite]:
        """What the API tells of the instance and its network, then a login through the proxy."""
        iap, name = self.options.iap, run.runner_ref
        if iap is None:
            return [said("instance-defined", name, None, "no instance is defined", "define options.access.iap")]
        if len(run.targets) > 1:
            why = "one instance is defined, and the run has several targets"
            return [said("instance-defined", name, None, why, "use an overlay or a bastion")]
        told = f"{iap.project}/{iap.zone}/{iap.instance}, tag {iap.firewall_tag}"
        asked = [said("instance-defined", iap.instance, told, "", "")]
        asked += [self._running(iap, run.targets), self._tagged(iap), self._admitted(iap)]
        return [*asked, *self.answers(run)]

    def through(self, run: Circumstances) -> Sequence[str]:
        """The proxy and the instance."""
        iap = self.options.iap
        return [] if iap is None else [f"iap to {iap.project}/{iap.zone}/{iap.instance}"]

    def place(self, target: Target) -> SshPlace:
        """The target, carried by the proxy's command."""
        assert self.options.iap is not None, "prerequisites comes first"
        return replace(super().place(target), command=tunnel_argv(self.options.iap, self._login.port))

    async def _instance(self, iap: Iap) -> InstanceSeen:
        return await self._cloud.instance(iap.project, iap.zone, iap.instance)

    def _running(self, iap: Iap, targets: Sequence[Target]) -> Prerequisite:
        async def look() -> str:
            seen = await self._instance(iap)
            if seen.status != "RUNNING":
                raise NotHeldError(f"it is {seen.status}", "start the instance")
            for target in targets:
                if target.address not in seen.addresses:
                    raise NotHeldError(
                        f"it has {', '.join(seen.addresses)}, not {target.address}",
                        f"name the instance of {target.host}",
                    )
            return f"RUNNING at {', '.join(seen.addresses)}"

        return Prerequisite("instance-running", iap.instance, look)

    def _tagged(self, iap: Iap) -> Prerequisite:
        async def look() -> str:
            tags = (await self._instance(iap)).tags
            if iap.firewall_tag not in tags:
                raise NotHeldError(f"it has no tag {iap.firewall_tag}: {', '.join(tags) or 'none'}", "tag the instance")
            return iap.firewall_tag

        return Prerequisite("instance-tagged", iap.instance, look)

    def _admitted(self, iap: Iap) -> Prerequisite:
        async def look() -> str:
            seen = await self._instance(iap)
            rules = await self._cloud.firewalls(iap.project, seen.network)
            if (open_to := open_to_all(rules, seen, self._login.port)) is not None:
                raise NotHeldError(f"rule {open_to} lets everybody in", "remove it: the proxy needs no public way")
            rule = deciding(rules, seen, iap.firewall_tag, self._login.port)
            if rule is None or not rule.allow:
                told = "no rule" if rule is None else f"rule {rule.name} denies"
                raise NotHeldError(
                    f"{told}: {IAP_RANGE} to tcp:{self._login.port} for tag {iap.firewall_tag}",
                    "allow the proxy's range",
                )
            return f"rule {rule.name}, priority {rule.priority}"

        return Prerequisite("firewall-admits-iap", iap.instance, look)


def tunnel_argv(iap: Iap, port: int) -> tuple[str, ...]:
    """The command that carries one connection through the proxy on its standard input and output: no local port."""
    return (
        iap.gcloud,
        "compute",
        "start-iap-tunnel",
        iap.instance,
        str(port),
        "--listen-on-stdin",
        f"--zone={iap.zone}",
        f"--project={iap.project}",
        "--quiet",
    )


def deciding(rules: Sequence[FirewallSeen], seen: InstanceSeen, tag: str, port: int) -> FirewallSeen | None:
    """The rule that decides over the proxy's connections: the lowest priority number, and a denial before an allowance.

    An allowance counts when it holds the whole range and names the tag; a denial when it touches any of it.
    """
    proxy = ipaddress.IPv4Network(IAP_RANGE)
    found = []
    for rule in rules:
        if rule.disabled or rule.network != seen.network or not _concerns(rule, port):
            continue
        sources = [ipaddress.ip_network(source) for source in rule.sources]
        same = [source for source in sources if source.version == proxy.version]
        admits = tag in rule.target_tags and any(_holds(source, proxy) for source in same)
        denies = _meets(rule, seen) and (rule.other_sources or any(proxy.overlaps(source) for source in same))
        if admits if rule.allow else denies:
            found.append(rule)
    return min(found, key=lambda rule: (rule.priority, rule.allow), default=None)


def _holds(source: ipaddress.IPv4Network | ipaddress.IPv6Network, proxy: ipaddress.IPv4Network) -> bool:
    return isinstance(source, ipaddress.IPv4Network) and proxy.subnet_of(source)


def open_to_all(rules: Sequence[FirewallSeen], seen: InstanceSeen, port: int) -> str | None:
    """A rule that lets the whole internet reach the port, which this mode exists to avoid (GATE-3)."""
    for rule in rules:
        everybody = any(source in ("0.0.0.0/0", "::/0") for source in rule.sources)
        same = rule.network == seen.network and not rule.disabled
        if rule.allow and everybody and same and _meets(rule, seen) and _concerns(rule, port):
            return rule.name
    return None


def _meets(rule: FirewallSeen, seen: InstanceSeen) -> bool:
    return not rule.target_tags or bool(set(rule.target_tags) & set(seen.tags))


def _concerns(rule: FirewallSeen, port: int) -> bool:
    return any(
        protocol in ("all", "tcp", "6") and (not ranges or any(low <= port <= high for low, high in ranges))
        for protocol, ranges in rule.protocols
    )
