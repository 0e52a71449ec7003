"""Read the client's ledger: what was acknowledged, what survived, how long nothing was acknowledged.

Times are the monotonic clock, which all machines of a lab share with the host: they may be compared with
`time.monotonic_ns()` here.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyops_lab.errors import LabError
from hyops_lab.roles import client, postgres
from hyops_lab.waiting import PATIENCE_S, first_seen

if TYPE_CHECKING:
    from hyops_lab.lab import Lab


@dataclass(frozen=True)
class Entry:
    """One id in one of the client's files; `sqlstate` is empty for an acknowledgement."""

    row_id: int
    at_ns: int  # monotonic
    wall_ns: int
    address: str
    sqlstate: str = ""


@dataclass(frozen=True)
class Loss:
    """Acknowledged rows, counted against what one database has; `lost` lists the ids that it has not."""

    acknowledged: int
    surviving: int
    lost: tuple[int, ...]


@dataclass(frozen=True)
class Gap:
    """The time between two acknowledgements that follow each other."""

    before: Entry
    after: Entry

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.after.at_ns - self.before.at_ns) / 1e9


def start(lab: Lab, *, old: bool = False) -> None:
    """Start the client, or with `old` the one that keeps its connection and ignores DNS; returns at its first row."""
    since_ns = time.monotonic_ns()
    lab.exec(client.HOST, ["systemctl", "start", _unit(old)])
    wait_ack(lab, since_ns, old=old)


def stop(lab: Lab, *, old: bool = False) -> None:
    """Stop the client; what it wrote stays."""
    lab.exec(client.HOST, ["systemctl", "stop", _unit(old)])


def entries(lab: Lab, *, kind: str = "ledger", old: bool = False) -> list[Entry]:
    """Return the client's `ledger`, `in-doubt` or `refused`, oldest first."""
    folder = client.OLD_FOLDER if old else client.FOLDER
    try:
        text = lab.read(client.HOST, f"{folder}/{kind}").decode()
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    return [_entry(line) for line in complete.splitlines()]


def count_loss(lab: Lab, db_host: str, *, old: bool = False) -> Loss:
    """Count the acknowledged rows that `db_host` has; it must accept queries."""
    acknowledged = {entry.row_id for entry in entries(lab, old=old)}
    present = {int(row) for row in postgres.sql(lab, db_host, "SELECT id FROM ledger").split()}
    lost = tuple(sorted(acknowledged - present))
    return Loss(len(acknowledged), len(acknowledged & present), lost)


def gap(ledger: Sequence[Entry]) -> Gap:
    """Return the longest gap between acknowledgements that follow each other."""
    if len(ledger) < 2:
        raise LabError("a gap needs two acknowledgements")
    return max((Gap(a, b) for a, b in itertools.pairwise(ledger)), key=lambda found: found.seconds)


def first_ack_after(ledger: Sequence[Entry], at_ns: int, address: str | None = None) -> Entry | None:
    """Return the first acknowledgement after a moment of the monotonic clock, from `address` if one is given."""
    for entry in ledger:
        if entry.at_ns > at_ns and address in (None, entry.address):
            return entry
    return None


def wait_ack(
    lab: Lab, at_ns: int, address: str | None = None, *, old: bool = False, timeout_s: float = PATIENCE_S
) -> Entry:
    """Return the first acknowledgement after `at_ns`, waiting for it."""
    return first_seen(
        lambda: first_ack_after(entries(lab, old=old), at_ns, address),
        what=f"an acknowledged write{f' by {address}' if address else ''}",
        where=f"journalctl -u {_unit(old)} on {client.HOST}",
        timeout_s=timeout_s,
    )


def _unit(old: bool) -> str:
    return client.OLD_UNIT if old else client.UNIT


def _entry(line: str) -> Entry:
    row_id, at_ns, wall_ns, address, *rest = line.split()
    return Entry(int(row_id), int(at_ns), int(wall_ns), address, *rest)
