"""The database edge in nftables, through libnftables in this process (0.2 ms a transaction; 20 ms as a command).

Traffic to and from the port is matched in both directions, so a session that was established while the edge was open
is dead when it closes: the reply of a commit does not leave any more. Three ways through, all of them counted down by
the kernel in sets with time-outs, none of them open at boot:
- the granted slot of two (`lease_0`, `lease_1`): everybody; see `ports.edge` for why there are two;
- `draining`: the standbys of `peers`, while a demoted primary hands over its last records;
- `reading`: the `monitors`, while the database is in recovery.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
from collections.abc import Sequence
from typing import Any

from hyops.errors import PrerequisiteError, TargetError
from hyops.ports.edge import EdgeState, Slot

TABLE = "hyops_edge"
LIBRARY = "libnftables.so.1"
_NO_TABLE = "No such file or directory"  # the kernel's ENOENT, as the library writes it
_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON of nftables/libnftables.h


class NftEdge:
    """`DatabaseEdge` for one TCP port in the network namespace of this process. Needs CAP_NET_ADMIN."""

    def __init__(
        self,
        *,
        port: int = 5432,
        peers: Sequence[str] = (),
        monitors: Sequence[str] = (),
        table: str = TABLE,
        library: str = LIBRARY,
    ) -> None:
        self._port = port
        self._peers = [str(ipaddress.IPv4Network(peer)) for peer in peers]
        self._monitors = [str(ipaddress.IPv4Network(monitor)) for monitor in monitors]
        self._table = table
        self._library = library
        self._loaded: _Nftables | None = None
        self._granted: int | None = None
        self._next = 0

    def install(self) -> None:
        """The closed rule set, in one transaction; also what the boot unit runs before the network is up."""
        self._granted = None
        self._nft.run(closed_ruleset(self._table, self._port, self._peers, self._monitors))

    def arm(self, ttl_s: float) -> Slot:
        """Count down in the slot that is not granted."""
        slot = self._next = 1 - self._granted if self._granted is not None else 1 - self._next
        table = f"inet {self._table}"
        element = f"{{ {self._port} timeout {_milliseconds(ttl_s)} }}"
        self._nft.run(f"flush set {table} lease_{slot}; add element {table} lease_{slot} {element}")
        return Slot(slot)

    def grant(self, slot: Slot) -> None:
        """Point the chain at the slot; one that has run down lets nothing pass."""
        table = f"inet {self._table}"
        self._nft.run(
            f"flush chain {table} granted; flush set {table} draining; flush set {table} reading; "
            f"add rule {table} granted tcp dport @lease_{slot} accept; "
            f"add rule {table} granted tcp sport @lease_{slot} accept"
        )
        self._granted = int(slot)

    def drain(self, limit_s: float) -> None:
        """Only the peers, for a limited time."""
        table = f"inet {self._table}"
        self._nft.run(
            f"{self._closing()}; add element {table} draining {{ {self._port} timeout {_milliseconds(limit_s)} }}"
        )

    def read(self, limit_s: float) -> None:
        """Only the monitors, for a limited time."""
        table = f"inet {self._table}"
        element = f"{{ {self._port} timeout {_milliseconds(limit_s)} }}"
        self._nft.run(f"flush set {table} reading; add element {table} reading {element}")

    def close(self) -> None:
        """Nothing passes any more."""
        self._nft.run(self._closing())
        self._granted = None

    def state(self) -> EdgeState:
        """What the kernel holds; an element that has run down is not listed."""
        try:
            listed = self._nft.run(f"list table inet {self._table}", as_json=True)
        except TargetError as exc:
            if _NO_TABLE in exc.message:
                return EdgeState(installed=False, open=False, draining=False, reading=False)
            raise
        sets, granted, shut = _listed(listed)
        if not shut:
            return EdgeState(installed=False, open=False, draining=False, reading=False)
        return EdgeState(
            installed=True,
            open=any(sets.get(name, False) for name in granted),
            draining=sets.get("draining", False),
            reading=sets.get("reading", False),
        )

    @property
    def _nft(self) -> _Nftables:
        """Loaded at the first use: an agent whose edge cannot be had must live, to stop the database."""
        if self._loaded is None:
            self._loaded = _Nftables(self._library)
        return self._loaded

    def _closing(self) -> str:
        table = f"inet {self._table}"
        flushes = [f"flush set {table} {name}" for name in ("lease_0", "lease_1", "draining", "reading")]
        return "; ".join([f"flush chain {table} granted", *flushes])


def closed_ruleset(table: str, port: int, peers: Sequence[str], monitors: Sequence[str]) -> str:
    """The rules by which nothing passes until something is counted down. Replaces the table in one transaction."""
    counted = "type inet_service; flags timeout;"

    def addresses(name: str, members: Sequence[str]) -> str:
        elements = f"elements = {{ {', '.join(members)} }};" if members else ""
        return f"set {name} {{ type ipv4_addr; flags interval; {elements} }}"

    return f"""
add table inet {table}
delete table inet {table}
table inet {table} {{
  set lease_0 {{ {counted} }}
  set lease_1 {{ {counted} }}
  set draining {{ {counted} }}
  set reading {{ {counted} }}
  {addresses("peers", peers)}
  {addresses("monitors", monitors)}
  chain granted {{ }}
  chain guard {{
    tcp flags & rst == rst accept comment "a reset carries no answer; our own must reach both ends"
    jump granted
    ip saddr @peers tcp dport @draining accept
    ip daddr @peers tcp sport @draining accept
    ip saddr @monitors tcp dport @reading accept
    ip daddr @monitors tcp sport @reading accept
    reject with tcp reset
  }}
  chain input {{
    type filter hook input priority -150; policy accept;
    tcp dport {port} jump guard
  }}
  chain output {{
    type filter hook output priority -150; policy accept;
    tcp sport {port} jump guard
  }}
}}
"""


def _milliseconds(seconds: float) -> str:
    return f"{max(1, int(seconds * 1000))}ms"


def _listed(answer: str) -> tuple[dict[str, bool], set[str], bool]:
    """Which sets hold an element, which of them the granted chain looks into, and whether what is not granted is
    refused: a table whose chains were flushed lets everything pass."""
    sets: dict[str, bool] = {}
    granted: set[str] = set()
    guards: set[str] = set()
    try:
        for item in json.loads(answer)["nftables"]:
            if "set" in item:
                sets[item["set"]["name"]] = bool(item["set"].get("elem"))
            rule = item.get("rule", {})
            if rule.get("chain") == "granted":
                granted |= _sets_of(rule)
            for part in rule.get("expr", []):
                if "reject" in part or part.get("jump") == {"target": "guard"}:
                    guards.add(str(rule["chain"]))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise TargetError(f"nftables listed something that is not a table: {exc!r}") from exc
    return sets, granted, guards >= {"input", "output", "guard"}


def _sets_of(rule: dict[str, Any]) -> set[str]:
    rights = [part.get("match", {}).get("right") for part in rule.get("expr", [])]
    return {right[1:] for right in rights if isinstance(right, str) and right.startswith("@")}


class _Nftables:
    """The few calls of libnftables that are used here."""

    def __init__(self, name: str) -> None:
        self._context: int | None = None
        try:
            library = ctypes.CDLL(name)
        except OSError as exc:
            raise PrerequisiteError(f"{name} is not there: {exc}", hint="install the package nftables") from exc
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        for name in ("output", "error"):
            getattr(library, f"nft_ctx_buffer_{name}").argtypes = [ctypes.c_void_p]
            getter = getattr(library, f"nft_ctx_get_{name}_buffer")
            getter.argtypes, getter.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._library = library
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise PrerequisiteError("no netlink socket for nftables", hint="run as root")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str, *, as_json: bool = False) -> str:
        """One transaction: all of it or nothing."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON if as_json else 0)
        code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        error = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        if code != 0:
            raise TargetError(f"nftables refused: {error.strip()[:500]}", hint="is the agent root, with CAP_NET_ADMIN?")
        return str(output)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, TypeError):
            if self._context:
                self._library.nft_ctx_free(self._context)
                self._context = None
