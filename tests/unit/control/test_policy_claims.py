"""Which thresholds read a look's value as it is meant, which members only look like two, which windows never close."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import yaml

from hyops.control.proof.members import members
from hyops.control.proof.readings import misread, readings
from hyops.control.proof.windows import windows
from hyops.model.policy import WEEKDAYS, ServicePolicy
from hyops_lab.wiring import service
from policy_files import FOLDER

ONE, OTHER = {"host": "onprem-db", "site": "onprem"}, {"host": "cloud-db", "site": "cloud"}
WAL = {"source": "postgresql", "query": "wal_received", "about": "target", "comparator": "lte"}
LAG = {**WAL, "query": "lag_bytes"}
PAIRS = [*product(("postgresql", "tcp", "http"), ("primary", "target")), ("dns", "primary")]


def both(key: str) -> set[tuple[str, object]]:
    """Well is bad and a loss is ok, by one key."""
    return {(f"signal/{rule}", key) for rule in ("well-is-bad", "lost-is-ok")}


def policy(**changes: Any) -> ServicePolicy:
    """The safe policy of the docs with other top-level keys."""
    return ServicePolicy.of({**yaml.safe_load((FOLDER / "safe.yml").read_text()), **changes})


def rules(**signal: Any) -> set[tuple[str, object]]:
    """Rule and key of what is found in one signal."""
    body = {"name": "x", "source": "tcp", "vantages": ["control"], **signal}
    return {(one.rule, one.where[-1]) for one in misread(policy(signals=[body], quorum=1))}


@pytest.mark.req("DEC-3", "DEC-4", "INV-5")
@pytest.mark.parametrize(("source", "about"), PAIRS)
def test_a_yes_is_well_and_a_no_is_bad(source: str, about: str) -> None:
    """Of every threshold only those above 0 and up to 1, with gte, pass; a hysteresis is under the same rule."""
    lines = (-1.0, 0.0, 1e-9, 0.5, 1.0, 1.0001, 2.0)
    for comparator, line, leave in product(("gte", "lte"), lines, (None, *lines)):
        signal = {"source": source, "about": about, "url": "http://$address/", "leave_threshold": leave}
        sound = comparator == "gte" and all(0 < one <= 1 for one in (line, line if leave is None else leave))

        found = rules(**signal, comparator=comparator, threshold=line)
        assert bool(found) is not sound, (comparator, line, leave)


@pytest.mark.req("DEC-3", "DEC-4", "UX-1")
@pytest.mark.parametrize(
    ("signal", "found"),
    [
        ({"threshold": 2.0}, {("signal/well-is-bad", "threshold")}),
        ({"threshold": 0.0}, {("signal/lost-is-ok", "threshold")}),
        ({"leave_threshold": 2.0}, {("signal/well-is-bad", "leave_threshold")}),
        ({"comparator": "lte"}, {("signal/lost-is-ok", "comparator")}),
        ({"comparator": "lte", "threshold": 0.0}, both("comparator")),
        ({**WAL, "threshold": 1.5}, set()),
        ({**WAL, "threshold": 0.0}, {("signal/well-is-bad", "threshold")}),
        ({**WAL, "threshold": 86400.0}, {("signal/lost-is-ok", "threshold")}),
        ({**LAG, "threshold": 16e6, "leave_threshold": 4e6}, set()),
        ({**LAG, "threshold": -1.0}, {("signal/well-is-bad", "threshold")}),
        ({**LAG, "comparator": "gte", "threshold": 1.0}, both("comparator")),
        ({"source": "postgresql", "query": "standby"}, {("signal/well-is-bad", "query")}),
        ({**WAL, "about": "primary", "threshold": 1.5}, both("query")),
        ({"source": "postgresql", "query": "primary", "about": "target", "comparator": "lte", "threshold": 0.0}, set()),
        ({"source": "dns", "about": "target"}, {("signal/well-is-bad", "source")}),
        ({"source": "prometheus", "query": "up", "url": "http://p", "threshold": 2.0}, set()),
    ],
)  # fmt: skip
def test_the_key_that_makes_it_so_is_named(signal: dict[str, Any], found: set[tuple[str, object]]) -> None:
    """What a look says of WAL, lag and the wrong side of a pair; of a query only its author knows."""
    assert rules(**signal) == found


@pytest.mark.req("DEC-4", "UX-1")
def test_the_table_says_how_values_are_read() -> None:
    """A yes and a no in words; everything else by its line."""
    signals = [
        {"name": "port", "source": "tcp", "vantages": ["control"], "threshold": 2.0},
        {"name": "wal", "vantages": ["control"], **WAL, "threshold": 1.5, "leave_threshold": 0.5},
        {"name": "metric", "source": "prometheus", "url": "http://p", "query": "up"},
    ]

    assert readings(policy(signals=signals, quorum=1)) == [
        ("port", "tcp", "1 is bad, 0 is bad"),
        ("wal", "postgresql wal_received", "ok lte 1.5, leave 0.5"),
        ("metric", "prometheus", "ok gte 1"),
    ]


def of_members(one: dict[str, Any], other: dict[str, Any], **options: str) -> set[tuple[object, ...]]:
    """Rule and place of what is found in two members, the vantage points' sites given."""
    told = [
        {**ONE, "address": "10.0.0.1", "runner_ref": "a", **one},
        {**OTHER, "address": "10.0.0.2", "runner_ref": "b", **other},
    ]
    changed = policy(members=told, options={"vantage_sites": options})
    return {(one.rule, *one.where[1:]) for one in members(changed)}  # fmt: skip


@pytest.mark.req("DEC-4", "INV-1", "INV-5")
@pytest.mark.parametrize(
    ("address", "port", "same"),
    [
        ("10.0.0.1", 5432, True),
        (" 10.0.0.1", 5432, True),
        ("::ffff:10.0.0.1", 5432, True),
        ("10.0.0.1", 5433, False),
        ("10.0.0.11", 5432, False),
    ],
)
def test_one_door_for_two_members_is_found(address: str, port: int, same: bool) -> None:
    """However it is spelled; two databases of one machine have two ports."""
    expected = {("member/one-address", 1, "address")} if same else set()

    assert of_members({}, {"address": address, "port": port}) == expected


@pytest.mark.req("DEC-4", "INV-5")
def test_one_name_for_two_members_is_found() -> None:
    """Names of hosts as DNS compares them."""
    assert of_members({"address": "DB.example."}, {"address": "db.example"}) == {("member/one-address", 1, "address")}


@pytest.mark.req("DEC-4", "INV-9")
@pytest.mark.parametrize(
    ("runner", "sites", "found"),
    [
        ("b", {}, set()),
        ("a", {}, {("member/runner-lost", 0, "runner_ref"), ("member/runner-lost", 1, "runner_ref")}),
        ("a", {"a": "hub"}, set()),
        ("a", {"a": "onprem"}, {("member/runner-lost", 1, "runner_ref")}),
        ("b", {"b": "onprem"}, {("member/runner-lost", 1, "runner_ref")}),
    ],
)
def test_a_runner_outlives_the_site_that_is_left(
    runner: str, sites: dict[str, str], found: set[tuple[object, ...]]
) -> None:
    """Where it stands is what the policy says, or beside its members; one in a third site may serve both."""
    assert of_members({}, {"runner_ref": runner}, **sites) == found


@pytest.mark.req("DEC-4", "INV-5")
def test_two_members_in_one_site_are_found() -> None:
    """Each as the one that replaces the other."""
    found = {("member/one-site", 0, "site"), ("member/one-site", 1, "site")}

    assert of_members({}, {"site": "onprem"}) == found


@pytest.mark.req("DEC-4")
def test_the_lab_is_read_as_it_is_meant() -> None:
    """Its signals and members are sound without the table too."""
    known = ServicePolicy.of(service.policy())

    assert [*misread(known), *members(known)] == []


@pytest.mark.req("DEC-4", "DEC-6")
@pytest.mark.parametrize(
    ("changes", "always"),
    [
        ([{"for_s": 86400}], True),
        ([{"for_s": 86340}], False),
        ([{"for_s": 86400, "days": ["mon", "tue", "wed", "thu", "fri", "sat"]}], False),
        ([{"for_s": 43200}, {"for_s": 43200, "at": "14:00"}], True),
        ([{"for_s": 43200}, {"for_s": 43200, "at": "14:01"}], False),
        ([{"for_s": 43200}, {"for_s": 43200, "at": "16:00", "time_zone": "Etc/GMT-2"}], True),
        ([{"for_s": 86400, "time_zone": "Nowhere/Else"}], False),
        ([], False),
    ],
)
def test_maintenance_that_never_ends_is_found(changes: list[dict[str, Any]], always: bool) -> None:
    """By one window or by several together, each in its own zone; one minute a week without is an end."""
    daily = {"days": list(WEEKDAYS), "at": "02:00", "owner": "ada", "reason": "backups"}
    told = [{**daily, "name": f"w{number}", **one} for number, one in enumerate(changes)]

    assert [one.rule for one in windows(policy(maintenance=told))] == ["maintenance/always"] * always
