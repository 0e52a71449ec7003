"""Guards of the evaluation, taken away one by one: `policy check` sees each on a policy that is safe with all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from hyops.adapters.yaml_files import parse_yaml
from hyops.control import burst, checks, decision, wanted, window
from hyops.control.checks import Readiness
from hyops.control.decision import Emission
from hyops.control.proof import table
from hyops.control.proof.check import check
from hyops.control.proof.claims import broken
from hyops.control.proof.situation import BURSTING, Setting, Situation, Word, places_of
from hyops.model.observed import DecisionInputs
from hyops.model.policy import ServicePolicy
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus, Direction, Level
from policy_files import FOLDER, mended

Patch = pytest.MonkeyPatch
evaluate = decision.evaluate


@cache
def good(name: str = "one-voice") -> ServicePolicy:
    """The twin of a dangerous policy; `any-target` has a check of the target and none of WAL."""
    text = mended((FOLDER / f"{name}.yml").read_text())
    return parse_yaml(text.encode(), ServicePolicy, source=name)


def blind_to(patch: Patch, **changes: Any) -> None:
    """An evaluation that does not look at parts of where the service is."""

    def mutant(inputs: DecisionInputs) -> Emission | None:
        return evaluate(inputs.model_copy(update={"mode": inputs.mode.model_copy(update=changes)}))

    patch.setattr(decision, "evaluate", mutant)


def open_run(patch: Patch) -> None:
    """A run under way is no reason to wait."""
    blind_to(patch, open_attempt=None)


def uncertain(patch: Patch) -> None:
    """Nor is one of which nobody knows how it ended."""
    blind_to(patch, uncertain=None)


def hold(patch: Patch) -> None:
    """Nor is maintenance."""
    patch.setattr(decision, "evaluate", lambda inputs: evaluate(inputs.model_copy(update={"hold": None})))


def quorum(patch: Patch) -> None:
    """One voice is enough."""

    def mutant(inputs: DecisionInputs) -> Emission | None:
        return evaluate(inputs.model_copy(update={"policy": inputs.policy.model_copy(update={"quorum": 1})}))

    patch.setattr(decision, "evaluate", mutant)


def confirmed(patch: Patch) -> None:
    """Every bad sample is confirmed."""
    patch.setattr(checks, "_confirmed", lambda span, inputs: True)


def gap(patch: Patch) -> None:
    """A lost sample breaks nothing."""
    folded = window.folded
    patch.setattr(window, "folded", lambda *args, gap, late: folded(*args, late=late))


def stale(patch: Patch) -> None:
    """A sample is about the present, however old."""
    patch.setattr(checks, "current", lambda series, signal, now_s: series.spans[-1])


def wal(patch: Patch) -> None:
    """That the standby receives WAL says nothing."""
    patch.setattr(wanted, "wal_still_arrives", lambda inputs, needed=True: False)


def target(patch: Patch) -> None:
    """The target is always ready."""
    patch.setattr(wanted, "readiness", lambda inputs: Readiness(True, None, None, 0.0))


def unwell(patch: Patch) -> None:
    """A vantage point that is not well has a vote."""
    judged = window.judged

    def mutant(sample: Sample, *args: Any, late: bool = False) -> tuple[CheckStatus, str | None]:
        return judged(sample.model_copy(update={"healthy_vantage": True}), *args, late=late)

    patch.setattr(window, "judged", mutant)


def late(patch: Patch) -> None:
    """What arrives a minute late is about the present."""
    patch.setattr(window, "LATE_S", 3600.0)


def error(patch: Patch) -> None:
    """A look that failed says that the primary is lost."""
    judged = window.judged

    def mutant(sample: Sample, *args: Any, late: bool = False) -> tuple[CheckStatus, str | None]:
        return (CheckStatus.BAD, None) if sample.value is None else judged(sample, *args, late=late)

    patch.setattr(window, "judged", mutant)


def again(patch: Patch) -> None:
    """What has been decided is decided again."""
    patch.setattr(decision, "_ordinal", lambda inputs, wanted: 1)


def cooldown(patch: Patch) -> None:
    """A run that has only just failed is tried again at once."""
    patch.setattr(decision, "_spent", lambda past, cooldown_s: past.closed is not None)


def way_back(patch: Patch) -> None:
    """The way back starts by itself."""
    failback = wanted.way_back

    def mutant(*args: Any) -> Any:
        found = failback(*args)
        return None if found is None else replace(found, level=Level.TRIGGER)

    patch.setattr(decision, "way_back", mutant)


def another_class(patch: Patch) -> None:
    """What the reduction to classes takes for alike makes a difference."""

    def mutant(inputs: DecisionInputs) -> Emission | None:
        odd = any(span.reason == "arrived late" for series in inputs.series for span in series.spans)
        return None if odd else evaluate(inputs)

    patch.setattr(decision, "evaluate", mutant)


MUTANTS: dict[str, tuple[Callable[[Patch], None], str, str]] = {
    "open run": (open_run, "act/blocked", "one-voice"),
    "uncertain": (uncertain, "act/blocked", "one-voice"),
    "hold": (hold, "act/blocked", "one-voice"),
    "quorum": (quorum, "act/one-vantage", "one-voice"),
    "confirmed": (confirmed, "act/unconfirmed", "one-voice"),
    "gap": (gap, "act/unconfirmed", "one-voice"),
    "stale": (stale, "act/unknown", "one-voice"),
    "wal": (wal, "act/wal-arriving", "one-voice"),
    "unknown target": (target, "act/target-unknown", "one-voice"),
    "bad target": (target, "act/target-bad", "any-target"),
    "unwell": (unwell, "act/unknown", "one-voice"),
    "late": (late, "act/unknown", "one-voice"),
    "error": (error, "act/unknown", "one-voice"),
    "again": (again, "act/repeated", "one-voice"),
    "cooldown": (cooldown, "act/repeated", "one-voice"),
    "way back": (way_back, "act/failback-alone", "any-target"),
    "another class": (another_class, "table/unsound", "one-voice"),
}


@pytest.mark.req("DEC-3", "DEC-4", "INV-5")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_guard_is_found_on_a_safe_policy(name: str, monkeypatch: Patch) -> None:
    """Safe with the guard, and refused by the rule that is about it without."""
    mutate, rule, policy = MUTANTS[name]
    mutate(monkeypatch)

    assert rule in {one.rule for one in check(good(policy)).findings}


@pytest.mark.req("DEC-4", "INV-2", "INV-5")
@pytest.mark.parametrize("policy", sorted({policy for _, _, policy in MUTANTS.values()}))
def test_with_all_guards_there_is_nothing_to_find(policy: str) -> None:
    """The policies of the mutants are safe."""
    assert check(good(policy)).findings == []


def with_a_burst() -> ServicePolicy:
    """A safe policy that buys capacity too."""
    body = good("any-target").body()
    load = {**body["signals"][0], "name": "load", "about": "pressure", "comparator": "lte", "threshold": 0.8}
    rule = {"profiles": ["daily", "busy"], "confirm_for_s": 60.0, "stable_for_s": 600.0, "target_cloud": "gcp"}
    rule |= {"runner_ref": "cloud-runner", "execution_plane": "runner-local", "checks": ["lag_bytes"]}
    return ServicePolicy.of({**body, "signals": [*body["signals"], load], "burst": rule})


def quiet(patch: Patch) -> None:
    """A burst is decided wherever the service is, whoever has lost it."""
    patch.setattr(burst, "_quiet", lambda inputs, votes: True)


def waiting_switch(patch: Patch) -> None:
    """A move that waits for people is no reason to wait."""
    real = burst._quiet
    patch.setattr(burst, "_quiet", lambda inputs, votes: real(inputs.model_copy(update={"past": []}), votes))


def hasty(patch: Patch) -> None:
    """Pressure counts from its first moment on."""
    real = burst._pressure
    patch.setattr(burst, "CONFIRMING_SAMPLES_MIN", 1)
    at_once = {"confirm_for_s": 0.0}
    patch.setattr(burst, "_pressure", lambda inputs, rule, one: real(inputs, rule.model_copy(update=at_once), one))


def any_ease(patch: Patch) -> None:
    """Whoever is not under pressure is at ease."""
    real = burst._pressure
    patch.setattr(burst, "_pressure", lambda *args: "pressed" if real(*args) == "pressed" else "relaxed")


def unchecked(patch: Patch) -> None:
    """Capacity is bought whatever its own checks say."""
    patch.setattr(burst, "_out", lambda *args: burst._step(*args[:3], Direction.OUT, "pressure", args[-1]))


def restless(patch: Patch) -> None:
    """The next step comes with the one before."""
    patch.setattr(decision, "_burst_due", lambda inputs: True)


def beside_another(patch: Patch) -> None:
    """A burst that runs is no reason to wait."""
    blind_to(patch, open_attempt=None, open_type=None)


BURST_MUTANTS: dict[str, tuple[Callable[[Patch], None], str]] = {
    "quiet": (quiet, "burst/beside"),
    "waiting switch": (waiting_switch, "burst/beside"),
    "hasty": (hasty, "act/unconfirmed"),
    "any ease": (any_ease, "act/unknown"),
    "unchecked, bad": (unchecked, "act/target-bad"),
    "unchecked, unknown": (unchecked, "act/target-unknown"),
    "restless": (restless, "act/repeated"),
    "beside another": (beside_another, "burst/beside"),
}


@pytest.mark.req("DEC-3", "DEC-4", "INV-5")
@pytest.mark.parametrize("name", BURST_MUTANTS)
def test_a_missing_guard_of_bursts_is_found(name: str, monkeypatch: Patch) -> None:
    """Safe with the guard, and refused without."""
    mutate, rule = BURST_MUTANTS[name]
    mutate(monkeypatch)

    assert rule in {one.rule for one in check(with_a_burst()).findings}


@pytest.mark.req("DEC-4", "INV-5")
def test_a_burst_with_all_guards_is_safe() -> None:
    """The policy of these mutants."""
    assert check(with_a_burst()).findings == []


@pytest.mark.req("EXE-3", "DEC-4")
def test_beside_a_burst_only_an_unplanned_move_is_decided(monkeypatch: Patch) -> None:
    """Away from home while a burst runs: a loss asks for a move; a way back waits, and without the guard is found."""
    setting = Setting(with_a_burst())
    about = {signal.name: signal.about for signal in setting.policy.signals}
    words = {(signal.name, vantage): Word.OK for signal, vantage in places_of(setting.policy)}
    well = Situation(words, "cloud-db", BURSTING)
    lost = Situation({at: Word.BAD if about[at[0]] == "primary" else Word.OK for at in words}, "cloud-db", BURSTING)
    guarded = [table.row_of(setting, one, 1) for one in (well, lost)]
    blind_to(monkeypatch, open_attempt=None, open_type=None)
    planned = table.row_of(setting, well, 1)

    assert [row.verdict for row in guarded] == ["nothing", "failback (trigger, unplanned)"]
    assert [list(broken(setting.policy, row)) for row in guarded] == [[], []]
    assert "act/blocked" in [one.rule for one in broken(setting.policy, planned)]
