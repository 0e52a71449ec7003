"""The step that counts the loss: acknowledged minus surviving, or an error."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from hyops.adapters.driver_count_loss import CountLoss
from hyops.errors import RecordError, TargetError
from hyops.ports.driver import Reconciled, StepContext

MEMBERS = [
    {"host": host, "site": "s", "address": address, "port": 6000 + n, "runner_ref": "r", "target_cloud": "none"}
    for n, (host, address) in enumerate([("onprem-db", "10.77.1.10"), ("cloud-db", "10.77.2.10")])
]


class Table:
    """A ledger and a database in memory; remembers who was asked in which order."""

    def __init__(self, ranges: list[tuple[int, int]], rows: set[int]) -> None:
        self.ranges, self.rows = ranges, rows
        self.asked: list[str] = []
        self.fails: str | None = None

    async def acknowledged(self) -> list[tuple[int, int]]:
        """The ranges."""
        self.asked.append("ledger")
        if self.fails:
            raise TargetError(self.fails)
        return self.ranges

    async def surviving(self, address: str, port: int, ranges: list[tuple[int, int]]) -> tuple[int, list[int]]:
        """Counted in memory."""
        self.asked.append(f"{address}:{port}")
        ids = [n for first, last in ranges for n in range(first, last + 1)]
        gone = [n for n in ids if n not in self.rows]
        return len(ids) - len(gone), gone[:1000]


def context(**inputs: Any) -> StepContext:
    """A step on cloud-db."""
    given = {"target": "cloud-db", "members": MEMBERS, **inputs}
    return StepContext(cast(Any, None), "count-loss", given, {}, {}, 0.0, lambda text: None)


@pytest.mark.fault(25)
@pytest.mark.req("EVD-1")
def test_the_loss_is_what_was_acknowledged_and_is_not_there() -> None:
    """Exact number and ids, asked of the target's own address, the ledger first."""
    table = Table([(1, 5), (9, 9)], {1, 2, 4, 100})

    result = asyncio.run(CountLoss(table, table).apply(context()))

    assert result.outputs["loss"] == {
        "how": "exact",
        "acknowledged": 6,
        "surviving": 3,
        "lost": 3,
        "lost_ids": [3, 5, 9],
        "facts": {},
    }
    assert result.changed is False
    assert table.asked == ["ledger", "10.77.2.10:6001"]


def test_an_unread_ledger_is_no_loss_of_zero() -> None:
    """The step fails; it does not report a number."""
    table = Table([], set())
    table.fails = "no ledger"

    with pytest.raises(TargetError, match="no ledger"):
        asyncio.run(CountLoss(table, table).apply(context()))


def test_preflight_says_what_would_stop_it() -> None:
    """In words, as the port asks, and nothing when all is well."""
    table = Table([(1, 2)], {1, 2})
    step = CountLoss(table, table)

    assert asyncio.run(step.preflight(context())) == []
    table.fails = "no ledger"
    assert asyncio.run(step.preflight(context())) == ["no ledger"]


@pytest.mark.parametrize("inputs", [{"target": "elsewhere"}, {"members": []}, {"surprise": 1}])
def test_inputs_of_another_shape_are_refused(inputs: dict[str, Any]) -> None:
    """Before anybody is asked."""
    table = Table([], set())

    with pytest.raises(RecordError):
        asyncio.run(CountLoss(table, table).apply(context(**inputs)))
    assert table.asked == []


def test_after_a_crash_it_is_counted_again() -> None:
    """Counting changes nothing, so nothing is to be found out."""
    table = Table([], set())

    assert asyncio.run(CountLoss(table, table).probe(context())) == (Reconciled.NOT_DONE, None)
