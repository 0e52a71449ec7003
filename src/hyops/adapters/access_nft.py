"""A way in for a while as an nftables set element with a time-out: the kernel ends it when nobody else does (ACC-1).

What is guarded is refused in both hooks that forward or take it, with no exception for established connections, so a
session ends with its grant. Run on the edge, as root.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hyops.errors import PrerequisiteError, TargetError, UnsafePlanError

TABLE = "hyops_access"
_NO_TABLE = "No such file or directory"  # the kernel's ENOENT, as nft writes it
LIMIT_S = 5.0
_KEY = "type ipv4_addr . ipv4_addr . inet_service; flags interval, timeout;"


class NftGrants:
    """`EphemeralRule` in the network namespace of this process, for what is `guarded`: (address, port)."""

    def __init__(self, guarded: Sequence[tuple[str, int]]) -> None:
        self._guarded = [(str(ipaddress.IPv4Address(address)), port) for address, port in guarded]

    async def install(self) -> None:
        """Guard what is to be guarded; grants that run are kept."""
        elements = ", ".join(f"{address} . {port}" for address, port in self._guarded)
        await _nft(
            f"""add table inet {TABLE}
add set inet {TABLE} grants {{ {_KEY} }}
add set inet {TABLE} guarded {{ type ipv4_addr . inet_service; }}
flush set inet {TABLE} guarded
add element inet {TABLE} guarded {{ {elements} }}"""
            + "".join(
                f"""
add chain inet {TABLE} {hook} {{ type filter hook {hook} priority -10; policy accept; }}
flush chain inet {TABLE} {hook}
add rule inet {TABLE} {hook} ip saddr . ip daddr . tcp dport @grants accept
add rule inet {TABLE} {hook} ip daddr . tcp dport @guarded reject with tcp reset"""
                for hook in ("forward", "input")
            )
        )

    async def open(self, grant_id: str, *, source: str, address: str, port: int, expires_at: datetime) -> None:
        """See the port. What is not guarded is open already, so a grant for it would be a lie."""
        if (address, port) not in self._guarded:
            raise UnsafePlanError(f"{address}:{port} is not guarded by this edge", hint="add it to `guarded`")
        left_s = int((expires_at - datetime.now(UTC)).total_seconds())
        if left_s < 1:
            raise UnsafePlanError("the grant would end before it begins")
        await self.install()
        await self.close(grant_id)
        net = ipaddress.IPv4Network(source)
        element = f'{net} . {address} . {port} timeout {left_s}s comment "{grant_id}"'
        await _nft(f"add element inet {TABLE} grants {{ {element} }}")

    async def close(self, grant_id: str) -> None:
        """See the port."""
        for element in await self._elements():
            if element.get("comment") == grant_id:
                await _nft(f"delete element inet {TABLE} grants {{ {_key_of(element)} }}")

    async def present(self) -> list[str]:
        """See the port; an element without a comment is somebody else's, and is told too."""
        return [str(element.get("comment", "unnamed")) for element in await self._elements()]

    async def _elements(self) -> list[dict[str, Any]]:
        try:
            told = json.loads(await _nft("", "-j", "list", "set", "inet", TABLE, "grants"))
            (found,) = [item["set"] for item in told["nftables"] if "set" in item]
            return [one["elem"] for one in found.get("elem", [])]
        except TargetError as exc:
            if _NO_TABLE in exc.message:
                return []
            raise
        except (ValueError, KeyError, TypeError) as exc:
            raise TargetError(f"nft listed something that is no set: {exc!r}") from exc


def _key_of(element: dict[str, Any]) -> str:
    source, address, port = element["val"]["concat"]
    if isinstance(source, dict):
        source = f"{source['prefix']['addr']}/{source['prefix']['len']}"
    return f"{source} . {address} . {port}"


async def _nft(commands: str, *words: str) -> str:
    """One transaction, or one question."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            *(words or ("-f", "-")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as exc:
        raise PrerequisiteError(f"nft: {exc.strerror}", hint="install the package nftables") from exc
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate(commands.encode())
    except TimeoutError as exc:
        raise TargetError("nft did not end in time") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise TargetError(
            f"nft refused: {err.decode(errors='replace').strip()[:300]}", hint="run it as root on the edge"
        )
    return out.decode()
