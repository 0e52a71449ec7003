"""Bursts before `policy check`: the page's own block is safe, and what would buy on a whim is refused by its key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import product
from math import prod
from typing import Any

import pytest
import yaml

from hyops.control.proof.check import check
from hyops.control.proof.classes import target_classes, target_key
from hyops.control.proof.rules import Finding
from hyops.control.proof.situation import Setting, places_of, sizes_of
from hyops.control.proof.waits import numbers
from hyops.model.policy import ServicePolicy
from policy_files import FOLDER

PAGE = FOLDER.parents[1] / "explanation" / "holds-latch-burst.md"
CLASSES_MAX = 60_000


def of_page() -> dict[str, Any]:
    """The block of the page, word for word."""
    (block,) = re.findall(r"^```yaml\n(signals:\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def policy(burst: dict[str, Any] | None = None, **signals: dict[str, Any]) -> ServicePolicy:
    """The safe policy of the docs with the page's burst in it, some of its keys and signals changed."""
    known, page = yaml.safe_load((FOLDER / "safe.yml").read_text()), of_page()
    told = [{**one, **signals.get(one["name"], {})} for one in (*known["signals"], *page["signals"])]
    return ServicePolicy.of({**known, "signals": told, "burst": {**page["burst"], **(burst or {})}})


def keys(findings: Iterable[Finding]) -> set[tuple[object, ...]]:
    """Rule, and the key without the place of a signal in its list."""
    return {(one.rule, *(part for part in one.where if isinstance(part, str))) for one in findings}


@pytest.mark.req("DEC-4", "UX-2")
def test_the_burst_of_the_page_is_safe() -> None:
    """Out, in, and denied, from every size, in so few classes that it takes seconds."""
    proof = check(policy())
    verdicts = {verdict for _, _, verdict, _, _ in proof.grouped()}

    assert proof.findings == []
    assert {word for word in verdicts if "burst " in word} == {
        f"{word} (recommend, unplanned)" for word in ("burst out", "burst in", "deny burst out")
    }
    assert proof.table.situations == 13 ** (4 * 3 + 2) * 3 * 5 * 3
    assert sum(1 for row in proof.table.rows if row.count) < CLASSES_MAX


@pytest.mark.req("DEC-3", "DEC-4", "INV-5", "UX-1")
@pytest.mark.parametrize(
    ("burst", "load", "found"),
    [
        ({"cooldown_s": 0}, {}, {("act/repeated", "burst", "cooldown_s"), ("flap/cooldown", "burst", "cooldown_s")}),
        (
            {"confirm_for_s": 0, "stable_for_s": 0},
            {},
            {
                ("act/unconfirmed", "burst", "confirm_for_s"),
                ("act/unconfirmed", "burst", "stable_for_s"),
                ("confirm/short", "burst", "confirm_for_s"),
                ("confirm/stale", "signals", "max_age_s"),
            },
        ),
        ({}, {"absence": "bad"}, {("act/unknown", "signals", "absence")}),
    ],
)
def test_a_burst_on_a_whim_is_refused(
    burst: dict[str, Any], load: dict[str, Any], found: set[tuple[object, ...]]
) -> None:
    """No rest, no confirmation, a load of which nobody heard: each by the key of the burst or of the load."""
    assert keys(check(policy(burst, load=load)).findings) == found


@pytest.mark.req("DEC-4", "INV-5", "UX-1")
@pytest.mark.parametrize(
    ("burst", "load", "found"),
    [
        ({"cooldown_s": 119}, {}, {("flap/cooldown", "burst", "cooldown_s")}),
        ({"confirm_for_s": 60}, {"interval_s": 30}, {("confirm/short", "burst", "confirm_for_s")}),
        ({}, {"max_age_s": 121}, {("confirm/stale", "signals", "max_age_s")}),
        ({}, {"interval_s": 40}, {("confirm/never", "signals", "max_age_s")}),
        ({}, {"interval_s": 40, "weight": 0}, set()),
        ({"level": "trigger", "checks": []}, {}, set()),
    ],
)
def test_a_burst_has_windows_of_its_own(
    burst: dict[str, Any], load: dict[str, Any], found: set[tuple[object, ...]]
) -> None:
    """Looks, ages and pauses of the load against those of the burst, not of the service."""
    assert keys(numbers(policy(burst, load=load))) == found


U = {"source": "prometheus", "url": "http://127.0.0.1:9090", "query": "q"}


def watching(loads: int, sizes: int, checks: int, others: int, **changes: Any) -> ServicePolicy:
    """The safe policy of the docs with a burst and with what Prometheus says of load, quotas and the target."""
    known = yaml.safe_load((FOLDER / "safe.yml").read_text())
    line = {"comparator": "lte", "threshold": 0.8, "leave_threshold": 0.5, "max_age_s": 60}
    load = [{**U, **line, "name": f"load{n}", "about": "pressure"} for n in range(loads)]
    names = [*(f"check{n}" for n in range(checks)), *(f"other{n}" for n in range(others))]
    target = [{**U, "name": name, "about": "target", "threshold": 4, "max_age_s": 300} for name in names]
    rule = {**of_page()["burst"], "profiles": [f"s{n}" for n in range(sizes)], "checks": names[:checks]}
    more = {"signals": [*known["signals"], *load, *target], **({"burst": rule} if loads else {}), **changes}
    return ServicePolicy.of({**known, **more})


@pytest.mark.req("DEC-2", "DEC-4")
@pytest.mark.parametrize(
    ("loads", "sizes", "checks", "others"),
    [(2, 3, 2, 0), (3, 6, 2, 0), (0, 0, 0, 5), (2, 2, 2, 4)],
    ids=["billing and quota", "three loads, six sizes", "five checks of the target", "all together"],
)
def test_an_ordinary_number_of_checks_is_proved_whole(loads: int, sizes: int, checks: int, others: int) -> None:
    """No check of the target, and none of a burst, multiplies the table: only the answer to all of them counts."""
    proof = check(watching(loads, sizes, checks, others))

    assert proof.findings == []
    blocks = 5 if loads else 4
    assert proof.table.situations == 13 ** (4 * 3 + loads + checks + others) * 3 * blocks * max(sizes, 1)
    assert sum(1 for row in proof.table.rows if row.count) < CLASSES_MAX


@pytest.mark.req("DEC-2", "DEC-4", "INV-5")
def test_many_checks_hide_nothing() -> None:
    """One vantage point decides, however many checks are ok."""
    assert keys(check(watching(2, 2, 2, 0, quorum=1)).findings) == {("act/one-vantage", "quorum")}


@pytest.mark.req("DEC-4", "INV-5", "UX-1")
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, set()),
        ({"quorum": 1}, {("act/one-vantage", "quorum")}),
        ({"confirm_for_s": 0}, {("act/unconfirmed", "confirm_for_s")}),
    ],
)
def test_of_a_table_that_is_too_large_a_part_is_looked_at(changes: dict[str, Any], found: set[tuple[Any, ...]]) -> None:
    """It says which signals make it so, and what its part shows is found beside it."""
    findings = check(watching(9, 3, 1, 0, **changes)).findings

    assert {("table/too-large", "signals")} | (found & keys(findings)) == (
        {key for key in keys(findings) if str(key[0]).startswith(("act/", "table/"))}
    )
    (large,) = [one for one in findings if one.rule == "table/too-large"]
    assert "9 signals (load0, load1, " in large.message
    assert not found or found & keys(findings)


@pytest.mark.req("DEC-4")
def test_classes_made_signal_by_signal_are_those_of_the_whole_product() -> None:
    """Each answer stands for as many situations as give it when nothing is merged on the way."""
    known = watching(2, 2, 1, 1)
    one_place = [signal.model_copy(update={"vantages": signal.vantages[:1]}) for signal in known.signals]
    setting = Setting(known.model_copy(update={"signals": [one for one in one_place if one.name != "lag_bytes"]}))
    places = [(signal, at) for signal, at in places_of(setting.policy) if signal.about != "primary"]
    whole: Counter[object] = Counter()
    for told in product(*(setting.words(signal, at).items() for signal, at in places)):
        words = {(signal.name, at): word for (signal, at), (word, _) in zip(places, told, strict=True)}
        for size in sizes_of(setting.policy):
            whole[target_key(setting, words, size)] += prod(len(alike) for _, alike in told)

    classes = target_classes(setting)
    assert {one.key: one.count for one in classes} == whole
    assert all(target_key(setting, one.words, one.size) == one.key for one in classes)
