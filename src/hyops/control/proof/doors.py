"""Where something is reached: one door is one, however it is spelled."""

from __future__ import annotations

import ipaddress


def door(host: str, port: int) -> tuple[str, int]:
    """Where a host is reached, however it is spelled."""
    address = ip_of(host)
    return (host_of(host) if address is None else str(address)), port


def host_of(text: str) -> str:
    """The name, or what should be an address, in one spelling."""
    return text.strip().removesuffix(".").casefold()


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is; None for a name, and for what is neither."""
    try:
        address = ipaddress.ip_address(host_of(text))
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
