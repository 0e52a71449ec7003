"""Routes, tunnels and hops as this host sees them: the kernel's route, WireGuard's peers, routers by their TTL answers.

Source: ip(7), `IP_RECVERR` (errors of a UDP socket without privileges); RFC 792 type 11, time exceeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import struct
import time

from hyops.errors import PrerequisiteError
from hyops.ports.access import HopsSeen, PeerSeen, RouteSeen

PROGRAM_LIMIT_S = 2.0
HOP_LIMIT_S = 0.5
TRACE_PORT = 33434  # where traceroute sends, and nothing listens
IP_RECVERR, IPPROTO_IP = 11, 0
TIME_EXCEEDED, UNREACHABLE = 11, 3
EXTENDED_ERROR = struct.Struct("=IBBBxII")
SOCKADDR_IN = struct.Struct("!2xH4s")


async def route(address: str) -> RouteSeen:
    """Which way the kernel would take now (`ip route get`)."""
    told = await _output("ip", "-json", "route", "get", str(ipaddress.ip_address(address)))
    try:
        (found,) = json.loads(told)
        return RouteSeen(str(found["dev"]), str(found["prefsrc"]), found.get("gateway"))
    except (ValueError, KeyError, TypeError) as exc:
        raise PrerequisiteError(f"no route to {address}: {told[:200]!r}") from exc


async def peers(interface: str) -> list[PeerSeen]:
    """The peers of a WireGuard interface. Never `wg show dump`, which prints the private key."""
    endpoints = _columns(await _output("wg", "show", interface, "endpoints"))
    shaken = _columns(await _output("wg", "show", interface, "latest-handshakes"))
    now, found = time.time(), []
    for key, endpoint in endpoints.items():
        at = int(shaken.get(key, "0"))
        found.append(PeerSeen(key, None if endpoint == "(none)" else endpoint, max(0.0, now - at) if at > 0 else None))
    return found


async def hops(address: str, hops_max: int) -> HopsSeen:
    """Every distance is asked at once; a router that does not answer within HOP_LIMIT_S is None."""
    if ipaddress.ip_address(address).version != 4:
        raise PrerequisiteError(f"hops to {address}: only IPv4 is traced", hint="declare the overlay's way in IPv4")
    asked = [asyncio.create_task(_hop(address, ttl)) for ttl in range(1, hops_max + 1)]
    answers = await asyncio.gather(*asked)
    found: list[str | None] = []
    for who, arrived in answers:
        if arrived or who == address:
            return HopsSeen(tuple(found), reached=True)
        found.append(who)
    while found and found[-1] is None:  # beyond the last that answered nothing is known
        found.pop()
    return HopsSeen(tuple(found), reached=False)


async def _hop(address: str, ttl: int) -> tuple[str | None, bool]:
    """Who sent the error for one datagram, and whether that was the end of the way."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[str | None, bool]] = loop.create_future()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        probe.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)

        def read() -> None:
            with contextlib.suppress(OSError):
                _, more, _, _ = probe.recvmsg(512, 512, socket.MSG_ERRQUEUE)
                for level, kind, data in more:
                    if (level, kind) == (IPPROTO_IP, IP_RECVERR) and not answered.done():
                        answered.set_result(_offender(data))

        try:
            probe.connect((address, TRACE_PORT + ttl))
            loop.add_reader(probe.fileno(), read)
            probe.send(b"hyops")
            async with asyncio.timeout(HOP_LIMIT_S):
                return await answered
        except TimeoutError:
            return None, False
        except OSError as exc:
            raise PrerequisiteError(f"no way to {address}: {exc.strerror}") from exc
        finally:
            loop.remove_reader(probe.fileno())


def _offender(data: bytes) -> tuple[str | None, bool]:
    _, origin, kind, _, _, _ = EXTENDED_ERROR.unpack_from(data)
    if origin != 2 or kind not in (TIME_EXCEEDED, UNREACHABLE):  # SO_EE_ORIGIN_ICMP
        return None, False
    _, raw = SOCKADDR_IN.unpack_from(data, EXTENDED_ERROR.size)
    return str(ipaddress.IPv4Address(raw)), kind == UNREACHABLE


def _columns(text: str) -> dict[str, str]:
    return {line.split("\t")[0]: line.split("\t")[1] for line in text.splitlines() if "\t" in line}


async def _output(*argv: str) -> str:
    """What a program prints; one that is missing, fails or hangs tells nothing."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as exc:
        raise PrerequisiteError(f"{argv[0]}: {exc.strerror}", hint=f"install the package of {argv[0]}") from exc
    try:
        async with asyncio.timeout(PROGRAM_LIMIT_S):
            out, err = await process.communicate()
    except TimeoutError as exc:
        raise PrerequisiteError(f"`{' '.join(argv)}` did not end within {PROGRAM_LIMIT_S:g} s") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise PrerequisiteError(f"`{' '.join(argv)}`: {err.decode(errors='replace').strip()[:300]}")
    return out.decode(errors="replace")
