"""A policy in, a proof or counterexamples out: every class of situations through the real `evaluate` (DEC-3, DEC-4)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain

from hyops.control.checks import is_wal
from hyops.control.dispatch import PlanFor
from hyops.control.proof.claims import broken, described
from hyops.control.proof.classes import TooLargeError
from hyops.control.proof.fences import fences, obtainable
from hyops.control.proof.members import members
from hyops.control.proof.partial import part_of
from hyops.control.proof.places import places
from hyops.control.proof.readings import misread
from hyops.control.proof.routing import routed
from hyops.control.proof.rules import RULES, Finding
from hyops.control.proof.situation import Setting
from hyops.control.proof.table import Row, Table, table_of
from hyops.control.proof.waits import numbers, sum_of, waits_of
from hyops.control.proof.windows import windows
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes
from hyops.model.vocabulary import DrMode


@dataclass(frozen=True)
class Proof:
    """What was looked at and what was found. `findings`: each rule at most once per key, in the order of the rules."""

    policy: ServicePolicy
    table: Table
    findings: list[Finding]

    @property
    def arithmetic(self) -> str:
        """How long a switch takes by the policy's own waits."""
        return sum_of(waits_of(self.policy))

    @property
    def receipts(self) -> list[str]:
        """What can prove the fence of a lost site."""
        return sorted(map(str, obtainable(self.policy)))

    def grouped(self) -> list[tuple[str, str, str, int, int]]:
        """Mode, what stands, verdict, how many classes of situations, how many situations."""
        classes: Counter[tuple[str, str, str]] = Counter()
        situations: Counter[tuple[str, str, str]] = Counter()
        for row in self.table.rows:
            if row.count:
                key = (row.situation.mode, row.situation.block, row.verdict)
                classes[key] += 1
                situations[key] += row.count
        return [(*key, classes[key], situations[key]) for key in sorted(classes)]


def check(policy: ServicePolicy, routes: Routes | None = None, plan_for: PlanFor | None = None) -> Proof:
    """Prove it, or say with which input it fails. With `plan_for` a route is planned too, as the dispatcher does."""
    setting = Setting(policy)
    try:
        table = table_of(setting)
        large = []
    except TooLargeError as exc:
        table = part_of(setting)
        text = f"{exc}: more situations than can be enumerated; {table.sampled} were looked at"
        large = [Finding("table/too-large", ("signals",), text, {})]
    found = chain(
        large,
        chain.from_iterable(broken(policy, row) for row in table.rows),
        (_unsound(policy, row) for row in table.odd),
        misread(policy),
        numbers(policy),
        windows(policy),
        members(policy),
        places(setting),
        _unwatched(policy),
        fences(policy),
        routed(policy, table.rows, routes, plan_for) if routes is not None else (),
    )
    first: dict[tuple[object, ...], Finding] = {}
    for one in found:
        first.setdefault((one.rule, one.where, one.of_routes), one)
    order = list(RULES)
    return Proof(policy, table, sorted(first.values(), key=lambda one: (order.index(one.rule), str(one.where))))


def _unsound(policy: ServicePolicy, row: Row) -> Finding:
    return Finding("table/unsound", ("signals",), f"{row.verdict} does not follow in its class", described(policy, row))


def _unwatched(policy: ServicePolicy) -> list[Finding]:
    """Promoting a warm standby, and nobody asks it whether WAL still comes."""
    if policy.dr_mode is not DrMode.WARM_PROMOTE or any(is_wal(signal) for signal in policy.signals):
        return []
    text = "no signal about the target is wal_received, so a broken path looks like a lost primary"
    return [Finding("wal/unwatched", ("signals",), text, {"primary": "lives, streams, and cannot be reached"})]
