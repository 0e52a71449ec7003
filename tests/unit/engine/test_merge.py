"""The three-way merge of module state: what is taken, what clashes, and what may never be overwritten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.engine.merge import Clash, Left, Same, Take, three_way
from hyops.model.module_state import ModuleState
from state_kit import state

KEYS = ["a", "b", "c"]
OUTPUTS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([0, 1, True, "x"]))


def ok(**published: Any) -> Left:
    """A run that succeeded and may set every key."""
    return Left("ok", published, KEYS)


def test_an_unmoved_authority_takes_it() -> None:
    """First state, and the next one; only what the step may publish is replaced or removed."""
    assert three_way(None, None, ok(a=1)) == Take("ok", {"a": 1}, merged=False)
    base = state(3, a=1, b=2, other=9)
    assert three_way(base, base, Left("ok", {"a": 5}, ["a", "b"])) == Take("ok", {"a": 5, "other": 9}, merged=False)
    assert three_way(base, base, Left("error", {}, ["a"])) == Take("error", base.outputs, merged=False)
    assert three_way(base, base, ok(a=1, b=2)) == Same()


@pytest.mark.req("ROOT-5", "RUN-6")
def test_each_side_keeps_what_it_alone_changed() -> None:
    """Two runs that changed different outputs are merged; the same output twice is a clash that names it."""
    base = state(3, a=1, b=1, c=1)
    assert three_way(base, state(4, a=2, b=1, c=1), ok(a=1, b=2, c=1)) == Take("ok", {"a": 2, "b": 2, "c": 1}, True)
    assert three_way(base, state(4, a=2, b=1), ok(a=2, b=1)) == Same()
    clash = three_way(base, state(4, a=2, b=1), ok(a=3, b=1, c=2))
    assert clash == Clash(["outputs.a", "outputs.c"], "both sides changed a, c")
    assert isinstance(three_way(base, state(4, a=True, b=1, c=1), ok(a=2, b=1, c=1)), Clash)
    assert isinstance(three_way(state(3, a=1), state(4, a=True), ok(a=1)), Same)  # only ours changed it


@pytest.mark.req("RUN-6", "VOC-5")
@pytest.mark.parametrize(
    ("base", "ours", "left", "keys"),
    [
        (state(5, a=1), state(3, a=1), ok(a=2), ["generation"]),
        (state(5, a=1), None, ok(a=2), ["generation"]),
        (state(0, a=1), None, ok(a=2), ["generation"]),
        (state(3), state(3), Left("unknown", {}, KEYS), ["status"]),
        (state(3), state(4, status="error"), ok(), ["status"]),
        (state(3), state(4, status="destroyed"), ok(), ["status"]),
        (None, state(1, status="error"), ok(a=1), ["status"]),
        (None, state(1, a=2), ok(a=1), ["outputs.a"]),
        (None, state(0, a=2), ok(a=1), ["outputs.a"]),
    ],
)
def test_what_a_person_has_to_decide(base: ModuleState, ours: ModuleState, left: Left, keys: list[str]) -> None:
    """Behind its base, an `unknown` over an `ok`, two ends of one module, a state that appeared: never taken."""
    clash = three_way(base, ours, left)
    assert isinstance(clash, Clash)
    assert clash.keys == keys
    assert clash.reason


def test_a_side_that_is_preferred_decides_only_what_clashes() -> None:
    """`ours` still takes what the run alone changed, `theirs` leaves what the authority alone changed."""
    base, ours, left = state(3, a=1, b=1, c=1), state(4, a=2, b=2, c=1), ok(a=3, b=1, c=3)
    assert three_way(base, ours, left, prefer="ours") == Take("ok", {"a": 2, "b": 2, "c": 3}, True)
    assert three_way(base, ours, left, prefer="theirs") == Take("ok", {"a": 3, "b": 2, "c": 3}, True)
    assert three_way(state(3), state(3), Left("unknown", {}, []), prefer="ours") == Same()
    assert three_way(state(3), state(3), Left("unknown", {}, []), prefer="theirs") == Take("unknown", {}, False)


@given(OUTPUTS, OUTPUTS, OUTPUTS)
@pytest.mark.req("ROOT-5")
def test_no_update_is_lost(base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What either side changed stands in the merge, or clashes by name; merging again changes nothing."""
    before, now, left = state(3, **base), state(4, **ours), ok(**theirs)
    merged = three_way(before, now, left)
    same = lambda one, other: (type(one), one) == (type(other), other)  # noqa: E731  # 1 is not true
    for key in KEYS:
        b, o, t = (side.get(key) for side in (base, ours, theirs))
        if not same(b, o) and not same(b, t) and not same(o, t):
            assert isinstance(merged, Clash)
            assert f"outputs.{key}" in merged.keys
        elif isinstance(merged, Take):
            assert same(merged.outputs.get(key), t if same(b, o) else o)
    if isinstance(merged, Take):
        assert three_way(before, state(5, **merged.outputs), left) == Same()
