"""Which thresholds read a look's value as it is meant, which members only look like two, which windows never close."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import yaml

from hyops.control.proof.check import check
from hyops.control.proof.members import members
from hyops.control.proof.places import places
from hyops.control.proof.readings import misread, readings
from hyops.control.proof.situation import Setting
from hyops.control.proof.waits import numbers, waits_of
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
        ({**LAG, "threshold": 1e11}, set()),
        ({**LAG, "threshold": 1e15}, {("signal/lost-is-ok", "threshold")}),
        ({**LAG, "threshold": 1e15, "leave_threshold": 4e6}, {("signal/lost-is-ok", "threshold")}),
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
    odd = {("member/address", 1, "address")} if address.startswith(" ") else set()

    assert of_members({}, {"address": address, "port": port}) == expected | odd


@pytest.mark.req("DEC-4", "INV-5", "UX-1")
@pytest.mark.parametrize(
    ("address", "sound"),
    [
        ("10.0.0.2", True),
        ("2001:db8::2", True),
        ("db", True),
        ("DB-2.prod.example.", True),
        ("3com.example", True),
        ("127.0.0.1", False),
        ("127.1.2.3", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("localhost", False),
        ("db.LOCALHOST.", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("10.20.1.010", False),
        ("999.0.0.1", False),
        (" ; rm -rf /", False),
        ("10.0.0.2 ", False),
        ("db..example", False),
        ("-db", False),
        ("d\u0435b", False),
        ("", False),
    ],
)
def test_an_address_is_some_hosts_own(address: str, sound: bool) -> None:
    """An IP address or a host name, and none that is whichever host is looking."""
    assert of_members({}, {"address": address}) == (set() if sound else {("member/address", 1, "address")})


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
        ("a", {"a": "Onprem"}, {("member/runner-lost", 1, "runner_ref")}),
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

    assert of_members({}, {"site": "onprem"}) == of_members({}, {"site": "OnPrem"}) == found


@pytest.mark.req("DEC-4")
def test_the_lab_is_read_as_it_is_meant() -> None:
    """Its signals and members are sound without the table too."""
    known = ServicePolicy.of(service.policy())

    assert [*misread(known), *members(known), *numbers(known)] == []


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
        ([], False),
    ],
)
def test_maintenance_that_never_ends_is_found(changes: list[dict[str, Any]], always: bool) -> None:
    """By one window or by several together, each in its own zone; one minute a week without is an end."""
    daily = {"days": list(WEEKDAYS), "at": "02:00", "owner": "ada", "reason": "backups"}
    told = [{**daily, "name": f"w{number}", **one} for number, one in enumerate(changes)]

    assert [one.rule for one in windows(policy(maintenance=told))] == ["maintenance/always"] * always


@pytest.mark.req("DEC-4", "DEC-6", "UX-1")
def test_a_zone_that_nobody_knows_is_found() -> None:
    """No decision service begins with it; the other windows are judged all the same."""
    daily = {"days": list(WEEKDAYS), "at": "02:00", "owner": "ada", "reason": "backups", "for_s": 86400}
    told = [{**daily, "name": "a", "time_zone": "Mars/X"}, {**daily, "name": "b", "time_zone": "Europe/Berlin"}]

    found = {(one.rule, *one.where) for one in windows(policy(maintenance=told))}
    assert found == {("maintenance/zone", "maintenance", 0, "time_zone"), ("maintenance/always", "maintenance")}


@pytest.mark.req("DEC-4", "FEN-2")
@pytest.mark.parametrize(
    ("endpoints", "members"),
    [
        (["https://a:2379", "https://a:2379/", "https://A.:2379"], 1),
        (["https://10.0.0.1:2379", "http://[::ffff:10.0.0.1]:2379", "https://10.0.0.1"], 1),
        (["https://a:2379", "https://a:2380", "https://A.:2381"], 1),
        (["https://a:2379", "https://b:2380", "https://c:2379"], 3),
    ],
)
def test_hosts_of_etcd_are_counted_however_they_are_spelled(endpoints: list[str], members: int) -> None:
    """One host written in three ways is one, and so is one with three members: they are lost together."""
    body = yaml.safe_load((FOLDER / "safe.yml").read_text())["lease"]
    found = [one.message for one in numbers(policy(lease={**body, "endpoints": endpoints})) if "etcd" in one.message]

    assert [one.split()[2] for one in found] == [str(members)] * (members < 3)


def of_target(name: str, **changes: Any) -> set[tuple[object, ...]]:
    """Rule and key of what is found in the safe policy with one signal changed."""
    body = yaml.safe_load((FOLDER / "safe.yml").read_text())["signals"]
    told = [{**one, **(changes if one["name"] == name else {})} for one in body]
    return {(one.rule, one.where[-1]) for one in numbers(policy(signals=told))}


@pytest.mark.req("DEC-3", "DEC-4", "INV-5")
@pytest.mark.parametrize("name", ["lag_bytes", "wal_received"])
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, set()),
        ({"interval_s": 1.0}, set()),
        ({"interval_s": 1.1}, {("confirm/never", "max_age_s")}),
        ({"interval_s": 20.0}, {("confirm/never", "max_age_s")}),
        ({"max_age_s": 2.1}, {("target/stale", "max_age_s")}),
        ({"max_age_s": 30.0}, {("target/stale", "max_age_s")}),
        ({"interval_s": 0.0625, "max_age_s": 0.1}, {("confirm/never", "max_age_s")}),
    ],
)
def test_the_target_is_looked_at_after_the_loss(
    name: str, changes: dict[str, Any], found: set[tuple[object, ...]]
) -> None:
    """Often enough to be known whenever it is asked for, and not so long ago that it may have died with the primary."""
    assert of_target(name, **changes) == found


@pytest.mark.req("DEC-3", "DEC-4")
@pytest.mark.parametrize(("max_age_s", "found"), [(900.0, set()), (86400.0, {("target/stale", "max_age_s")})])
def test_a_quota_may_be_older(max_age_s: float, found: set[tuple[object, ...]]) -> None:
    """What the service asks itself changes more slowly, and is not of yesterday all the same."""
    quota = {"source": "file", "url": "file:///q.json", "vantages": [], "threshold": 8.0, "comparator": "gte"}
    assert of_target("lag_bytes", **quota, leave_threshold=None, interval_s=60.0, max_age_s=max_age_s) == found


@pytest.mark.req("DEC-3", "DEC-4")
@pytest.mark.parametrize(
    ("changes", "wait_s"),
    [
        ({}, 0.0),
        ({"threshold": 5.0}, 5.0 + 0.25 + 0.7 - 3.4),
        ({"interval_s": 60.0, "max_age_s": 120.0}, 120.0 - 3.4),
        ({"interval_s": 60.0}, 1.5 + 60.0 + 0.7 - 3.4),
    ],
)
def test_how_long_wal_seems_to_arrive_is_in_the_sum(changes: dict[str, Any], wait_s: float) -> None:
    """Its threshold, its next look and its time-out, or as long as its last word stands; less what is waited anyway."""
    body = yaml.safe_load((FOLDER / "safe.yml").read_text())["signals"]
    told = [{**one, **(changes if one["name"] == "wal_received" else {})} for one in body]
    waits = {wait.what: wait.seconds for wait in waits_of(policy(signals=told))}

    assert waits["WAL still fresh"] == pytest.approx(wait_s)
    assert ("rto/waits" in {one.rule for one in numbers(policy(signals=told))}) is (wait_s > 50.1)


@pytest.mark.req("DEC-4", "APR-3")
@pytest.mark.parametrize(("lives_s", "found"), [(59.0, "short"), (60.0, None), (3600.0, None), (3600.1, "long")])
def test_a_decision_lives_until_somebody_can_answer(lives_s: float, found: str | None) -> None:
    """A minute at least; and no longer than its request, or a service that stays lost is decided once in that time."""
    rules = {(one.rule, one.where) for one in numbers(policy(decision_max_age_s=lives_s))}

    assert rules == ({(f"decision/{found}-lived", ("decision_max_age_s",))} if found else set())


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.parametrize(
    ("sites", "confidence_min", "found"),
    [
        ({"control": "hub", "second": "hub", "witness": "edge"}, 0.6, True),
        ({"control": "hub", "second": "Hub ", "witness": "edge"}, 0.6, True),
        ({"control": "hub", "second": "hub", "witness": "edge"}, 0.7, False),
        ({"control": "hub", "second": "cloud", "witness": "edge"}, 0.6, False),
    ],
)
def test_one_site_does_not_outvote_the_others(sites: dict[str, str], confidence_min: float, found: bool) -> None:
    """What two vantage points behind one uplink cannot reach may be seen by the third, which may have to be heard."""
    body = policy().body()["signals"]
    told = [{**one, "vantages": list(sites)} for one in body]
    changed = policy(signals=told, options={"vantage_sites": sites}, confidence_min=confidence_min)

    rules = {one.rule: one.message for one in places(Setting(changed))}

    assert ("vantage/one-site" in rules) is found
    assert not found or "control and second stand in hub" in rules["vantage/one-site"]


UP = {"source": "prometheus", "url": "http://prom:9090", "query": "up"}
WEB = {"source": "http", "url": "http://$address:8008/"}


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.parametrize(
    ("signal", "found"),
    [
        ({}, False),
        ({"expect": {}}, False),
        ({"expect": {"status": [200, 204, 301, 401, 404]}}, False),  # what a server says while it serves
        ({"expect": {"status": [200, 500, 503]}}, True),
        ({"expect": {"status": [599]}}, True),
        ({"expect": {"status": list(range(100, 600))}, "about": "target"}, True),
        ({"expect": {"status": [200, 503], "contains": "role: primary"}}, False),  # the words can be missing
        ({"expect": {"status": [200, 503], "contains": " "}}, True),
        ({"expect": {"status": [200, 503]}, "weight": 0}, False),  # only for people to see
        ({"expect": {"status": [200, 503]}, "weight": 0, "about": "target"}, True),
    ],
)
def test_a_server_that_fails_is_not_well(signal: dict[str, Any], found: bool) -> None:
    """A status of 500 and more is what is said without the database: it is taken for well under no name."""
    assert rules(**{**WEB, **signal}) == ({("signal/failure-is-ok", "status")} if found else set())


@pytest.mark.req("DEC-4", "UX-1")
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, None),
        ({"endpoint": 300}, None),
        ({"endpoint": 301}, ("endpoint", "ttl_s")),
        ({"endpoint": 86400}, ("endpoint", "ttl_s")),
        ({"endpoint": 86400, "rto_s": None}, ("endpoint", "ttl_s")),
        ({"endpoint": 3600, "rto_s": 3600.0}, None),
        ({"cutover_policy": {"ttl_s": 86400}}, ("cutover_policy", "ttl_s")),
        ({"cutover_policy": {"ttl_s": 30}}, None),
    ],
)
def test_a_name_is_not_kept_for_longer_than_anybody_waits(changes: dict[str, Any], key: tuple[str, str] | None) -> None:
    """Five minutes, or the objective where that is longer; also what the record is given after the move."""
    body = dict(changes)
    if (ttl_s := body.pop("endpoint", None)) is not None:
        body["endpoint"] = {**policy().body()["endpoint"], "ttl_s": ttl_s}

    assert [one.where for one in numbers(policy(**body)) if one.rule == "endpoint/ttl"] == ([key] if key else [])


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"source": "tcp"}, {"source": "tcp"}, True),
        (UP, {**UP, "query": "pg_up"}, True),
        (UP, {**UP, "url": "http://PROM:9090/", "absence": "bad"}, True),
        (UP, {**UP, "url": "http://prom.:9090"}, True),
        ({**UP, "url": "http://prom"}, {**UP, "url": "http://prom:80/"}, True),
        ({**UP, "url": "http://[fd00::1]:9090"}, {**UP, "url": "http://[fd00:0::0:1]:9090"}, True),
        ({**UP, "url": "http://prom"}, {**UP, "url": "https://prom"}, False),
        (UP, {**UP, "url": "http://other:9090"}, False),
        (WEB, {**WEB, "url": "http://$address:8008/primary"}, True),
        (WEB, {"source": "tcp"}, False),
        ({"source": "postgresql"}, {"source": "postgresql", "query": "primary"}, False),
    ],
)
def test_one_look_under_two_names_is_one_look(one: dict[str, Any], other: dict[str, Any], found: bool) -> None:
    """Whatever they are called: one firewall rule, or one Prometheus, is behind both, and it outweighs the database."""
    body = policy().body()["signals"]
    shared = {**body[1], "weight": 2}
    del shared["source"]
    said = [{**shared, **one, "name": "first"}, {**shared, **other, "name": "second"}]
    changed = policy(signals=[{**body[0], "weight": 1}, *said, *body[2:]])

    findings = {one.rule: one for one in check(changed).findings}

    assert set(findings) == ({"act/one-signal"} if found else set())
    assert not found or findings["act/one-signal"].where == ("signals", 1)
