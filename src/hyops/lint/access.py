"""Rules about who can reach what: nothing is reached from a workstation, from CI, in the open or by a guess."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from hyops.lint.commands import commands
from hyops.lint.look import (
    Hit,
    Kind,
    Workspace,
    at,
    holders,
    is_true,
    kind_of_document,
    name_of,
    recovers,
    routes_of,
    texts,
    word,
)
from hyops.model.vocabulary import DecisionType
from hyops.ports.documents import Document, Node

HOME = re.compile(r"^(~|\$HOME|\$\{HOME\}|/home/[^/]+|/Users/[^/]+|/root)/\.(ssh|kube|aws|azure|config/gcloud)(/|$)")
PERSONAL = {"localhost", "laptop", "workstation", "local", "127.0.0.1"}
PUBLIC_KEYS = {
    "assign_public_ip",
    "associate_public_ip",
    "associate_public_ip_address",
    "enable_public_ip",
    "enable_public_ipv4",
    "external_ip",
    "ipv4_enabled",
    "map_public_ip_on_launch",
    "public_ip",
    "public_ip_address",
    "public_ipv4",
    "publicly_accessible",
}
SOURCES = re.compile(
    r"(source|allowed|authorized|trusted|ingress).*(ranges?|cidrs?|networks?|blocks?|ips?|prefix(es)?)$"
)
CIDRS = re.compile(r"^(ipv6_?)?cidr|^ip_?(v[46]_?)?ranges?$")
"""What holds sources or destinations; which, the mapping around it says."""
INWARD = re.compile(r"ingress|inbound")
OUTWARD = re.compile(r"egress|outbound")
EVERYBODY = {"*", "any", "internet"}
"""What security rules of Azure say in the place of a range."""
REFUSES = {"deny", "block", "drop", "reject"}
NAT_KEYS = {"external_ipv6", "name", "nat_ip", "natip", "network_tier", "networktier", "public_ptr_domain_name", "type"}
"""What the access config of a network interface at Google may hold: any of it, or nothing, gives an address."""
ACTIONS = re.compile(r"(^|/)[^@]*(ssh|tailscale|wireguard|openvpn|vpn|zerotier|twingate)[^@]*@", re.IGNORECASE)
SHELL_KEYS = {"run", "script", "before_script", "after_script"}
AUTO_BASTION_OK = re.compile(r"^(lab/|networking/onprem-)")
BASTION_KEYS = ("bastion", "bastion_host", "bastion_state_ref", "ssh_proxy_jump_host")


def workstation(document: Document, _: Workspace) -> Iterator[Hit]:
    """`workstation-direct`, a personal runner, keys in somebody's home, a route without a runner."""
    if kind_of_document(document) is Kind.CI:
        return
    for node in texts(document.root):
        text, name = (node.text or "").strip(), name_of(node)
        if name == "execution_plane" and text == "workstation-direct":
            yield Hit(node, "work would run from a workstation, which is not there at 03:00")
        elif name in ("runner_ref", "runner_host") and text.lower() in PERSONAL:
            yield Hit(node, f"{text!r} is whoever starts the command, not a standing runner")
        elif HOME.match(text):
            yield Hit(node, f"{text!r} lies in the home of one person on one machine")
    for kind, route in routes_of(document.root):
        if kind is not DecisionType.HOLD and not word(route, "runner_ref"):
            yield Hit(route, f"the route for {kind} names no runner_ref, so it runs wherever it is dispatched")


def public_ip(document: Document, _: Workspace) -> Iterator[Hit]:
    """A public address, an open source range, `public-ephemeral` without its limits."""
    for node in document.root.below() if document.root is not None else ():
        name, text = name_of(node), (node.text or "").strip()
        if name in PUBLIC_KEYS and is_true(node):
            yield Hit(node, f"{name} gives a public address by default")
        elif name in ("access_config", "access_configs") and _gives_an_address(node):
            yield Hit(node, f"{name} gives the machine a public address")
        elif name == "public_ip_allocation_method" and text:
            yield Hit(node, f"{name} reserves a public address")
        elif _everybody(node) and _lets_in(document.root, node):
            yield Hit(node, f"{_near_name(node)} lets everybody in")
        elif name == "execution_plane" and text == "public-ephemeral" and not _limited(document.root, node):
            yield Hit(node, "public-ephemeral without occasion, source_ranges and an end is public by default")


def _gives_an_address(node: Node) -> bool:
    """An access config, or a list of them. A mapping of other things, or a name, is somebody else's."""
    if node.items is not None:
        return any(one.entries is None or _gives_an_address(one) for one in node.items)
    return node.entries is not None and (not node.entries or any(name.lower() in NAT_KEYS for name in node.entries))


def _everybody(node: Node) -> bool:
    """Whether a range is everybody, or those of a list are it together while none is it alone."""
    if node.items is not None:
        return not any(_open([one.text]) for one in node.items) and _open([one.text for one in node.items])
    return _open((node.text or "").split(","))


def _open(ranges: Iterable[str | None]) -> bool:
    """Whether ranges let everybody in, one for all or together; words that are no range are not looked at."""
    four: list[IPv4Network] = []
    six: list[IPv6Network] = []
    for text in ranges:
        said = (text or "").strip()
        if said.lower() in EVERYBODY:
            return True
        if "/" in said:
            with suppress(ValueError):
                network = ip_network(said, strict=False)
                if isinstance(network, IPv4Network):
                    four.append(network)
                else:
                    six.append(network)
    return any(a.prefixlen == 0 for a in collapse_addresses(four)) or any(
        b.prefixlen == 0 for b in collapse_addresses(six)
    )


def _lets_in(root: Node | None, node: Node) -> bool:
    """Whether ranges are sources: by their own key, or by what they stand in and beside; not those of a refusal."""
    near, around = _near_name(node), list(reversed(holders(root, node)))
    rule = next((one for one in around if one.entries is not None), None)
    if {word(rule, "access").lower(), word(rule, "action").lower()} & REFUSES:
        return False
    said = [word(rule, name).lower() for name in ("direction", "type")]
    if any(OUTWARD.search(one) for one in said):
        return False
    if SOURCES.search(near):
        return True
    way = next((one for one in (*said, *map(name_of, around)) if INWARD.search(one) or OUTWARD.search(one)), "")
    return CIDRS.search(near) is not None and INWARD.search(way) is not None


def _near_name(node: Node) -> str:
    names = [part for part in node.where if isinstance(part, str)]
    return names[-1].lower().replace("-", "_") if names else ""


def _limited(root: Node | None, node: Node) -> bool:
    """A drill or break-glass that says from where and until when (ACC-1)."""
    holder = holders(root, node)[-1]
    access = at(holder, "access") or holder
    ranges = at(access, "source_ranges")
    closed = ranges is not None and bool(ranges.items) and not _open(one.text for one in ranges.items or ())
    ends = any(word(access, name) for name in ("expires_after", "expires_after_s", "expires_at"))
    return word(access, "occasion") in ("drill", "break-glass") and closed and ends


def ci_target_access(document: Document, _: Workspace) -> Iterator[Hit]:
    """A workflow that logs in to targets, opens a tunnel to them or carries their keys (RUN-12)."""
    if kind_of_document(document) is not Kind.CI:
        return
    for node in texts(document.root):
        name, text = name_of(node) or _near_name(node), (node.text or "").strip()
        if name == "uses" and ACTIONS.search(text[:300]):
            yield Hit(node, f"{text} gives the workflow a way into a network")
        elif re.search(r"(?i)ssh_?(private_?)?key", name) and text and not _checks_out(document.root, node):
            yield Hit(node, f"{name} hands the workflow a key to hosts")
        elif name in SHELL_KEYS:
            for line, command in commands(node):
                yield Hit(node, f"`{command}` reaches targets from CI", line)


def _checks_out(root: Node | None, node: Node) -> bool:
    """Whether a key only fetches sources from the forge itself."""
    return any(re.search(r"(^|/)checkout@", word(one, "uses")) for one in holders(root, node))


def hidden_bastion(document: Document, _: Workspace) -> Iterator[Hit]:
    """A jump host that is guessed, buried in SSH arguments, or promised by a plane that defines none (ACC-2)."""
    reference = word(document.root, "blueprint_ref")
    if kind_of_document(document) is Kind.CI:
        return
    for node in document.root.below() if document.root is not None else ():
        name, text = name_of(node), (node.text or "").strip()
        if name == "ssh_proxy_jump_auto" and is_true(node):
            if recovers(document.root) or not AUTO_BASTION_OK.match(reference):
                yield Hit(node, "the jump host would be inferred, from a topology that the incident has changed")
        elif text and re.search(r"(?i)proxyjump|proxycommand|(^|\s)-J\s", text):
            yield Hit(node, f"{name or 'an argument'} hides a jump host in SSH arguments")
        elif node.entries is not None and _plane(node) == "bastion-explicit" and not _bastion(node):
            yield Hit(node.entries["execution_plane"], "bastion-explicit without the definition of its bastion")
        elif name == "ssh_proxy_jump_host" and text and _sibling_plane(document.root, node) != "bastion-explicit":
            yield Hit(node, "a jump host beside a plane that does not say so")


def _plane(node: Node) -> str:
    return word(node, "execution_plane")


def _bastion(node: Node) -> bool:
    inside = (node, node.get("inputs"), node.get("access"))
    return any(one is not None and one.get(name) is not None for one in inside for name in BASTION_KEYS)


def _sibling_plane(root: Node | None, node: Node) -> str:
    """The plane of the nearest mapping around a node that names one."""
    around = reversed(holders(root, node))
    return next((plane for one in around if (plane := _plane(one) or word(one, "ssh_mode"))), "")
