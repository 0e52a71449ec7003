"""Bursts: out under pressure, in again more slowly, and never while anything else is the matter (DEC-4, EXE-3)."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest

from hyops.control.decision import decision_of
from hyops.errors import RecordError
from hyops.model.decision import Decision
from hyops.model.observed import DecisionInputs
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes
from hyops.model.vocabulary import DecisionType, Direction, DrMode, Level, Outcome, TargetCloud
from simulation.world import VANTAGES, World, policy, routes

PROBED = {"vantages": ["control"], "interval_s": 0.25, "timeout_s": 0.6, "max_age_s": 1.2, "source": "tcp"}
LOAD = {"name": "load", "about": "pressure", "comparator": "lte", "threshold": 0.8, "leave_threshold": 0.5, **PROBED}
QUEUE = {"name": "queue", "about": "pressure", "comparator": "lte", "threshold": 100.0, **PROBED}
QUOTA = {"name": "gcp_quota", "about": "target", **PROBED}
RULE = {
    "profiles": ["daily", "busy", "busiest"],
    "confirm_for_s": 2.0,
    "stable_for_s": 8.0,
    "cooldown_s": 6.0,
    "target_cloud": "gcp",
    "runner_ref": "cloud-runner",
    "execution_plane": "runner-local",
    "level": "trigger",
}


def bursting(*more: dict[str, Any], rule: dict[str, Any] | None = None, **changes: Any) -> ServicePolicy:
    """The service with a burst rule and its signals."""
    signals = [signal.body() for signal in policy().signals]
    return policy(signals=[*signals, LOAD, *more], burst={**RULE, **(rule or {})}, **changes)


def burst_routes(**changes: Any) -> Routes:
    """Out and in go to blueprints of their own."""
    lane = {"target_env": "lab", "execution_plane": "runner-local", "runner_ref": "cloud-runner"}
    ways = [{**lane, "target_ref": f"dr/scale-{way}@v1", "when": {"direction": way}} for way in ("out", "in")]
    known = {kind: route.body() for kind, route in routes().dispatcher_routes.items() if not isinstance(route, list)}
    return Routes.of({"env": "lab", "dispatcher_routes": {**known, "burst": ways}, **changes})


class Loaded(World):
    """A world whose load, queue and quota are what the test says."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"service_routes": burst_routes(), **more})
        self.says: dict[str, float | None] = {}
        self.values: dict[str, float | None] = {"load": 0.3, "queue": 0.0, "gcp_quota": 1.0}

    def _look(self, vantage: str, signal: str) -> None:
        if signal in self.values:
            self.say(vantage, signal, self.says.get(vantage, self.values[signal]))
        else:
            super()._look(vantage, signal)


def loaded(service_policy: ServicePolicy | None = None, **more: Any) -> Loaded:
    """All well for a while, then full load."""
    world = Loaded(service_policy=service_policy or bursting(), **more)
    world.watch(5)
    world.values["load"] = 0.95
    return world


def run(world: World, by: str = "ada") -> None:
    """What waits is approved and runs to its end; then the decision service reads of it."""
    world.settle()
    world.say_yes(by)
    world.settle()
    world.turn(0, "decision")


def bursts(world: World) -> list[Decision]:
    """What was decided of bursts."""
    return world.decisions(DecisionType.BURST)


def inputs_of(world: World, decision: Decision) -> DecisionInputs:
    """What was recorded beside a decision."""
    name = str(decision.inputs_digest).removeprefix("sha256:")
    return DecisionInputs.read(world.disk["inputs"].records[name])


@pytest.mark.req("DEC-4", "DEC-1", "DEC-5", "VOC-1")
def test_pressure_that_lasts_scales_out_by_one_step() -> None:
    """Not before `confirm_for_s`; direction, size and profile stand in the record, and it replays."""
    world = loaded()
    world.watch(1.5)
    early = bursts(world)
    world.watch(1.5)

    (made,) = bursts(world)
    again = decision_of(inputs_of(world, made))
    assert early == []
    assert made.scaling is not None
    assert (made.scaling.direction, made.scaling.size_before, made.scaling.size_after) == (Direction.OUT, 0, 1)
    assert (made.workload_profile_ref, made.target_cloud, made.dr_mode) == ("busy", TargetCloud.GCP, None)
    assert (made.level, made.generation) == (Level.TRIGGER, 1)
    assert again is not None
    assert again.unsigned() == made.unsigned()


@pytest.mark.req("DSP-1", "EXE-3", "DEC-6")
def test_out_step_by_step_and_in_again() -> None:
    """Each step waits for the outcome of the one before and its cooldown; size follows what was confirmed; out and in
    have blueprints of their own; at the last profile nothing more is bought, at the first nothing given back."""
    world = loaded()
    for _ in range(3):
        world.watch(12)
        run(world)
    out = bursts(world)
    world.values["load"] = 0.1
    for _ in range(3):
        world.watch(18)
        run(world)

    made = bursts(world)
    sizes = [(d.scaling.size_before, d.scaling.size_after) for d in made if d.scaling]
    assert len(out) == 2
    assert sizes == [(0, 1), (1, 2), (2, 1), (1, 0)]
    assert [d.workload_profile_ref for d in made] == ["busy", "busiest", "busy", "daily"]
    assert [spec.plan.blueprint_ref for spec in world.runners["cloud-runner"].specs.values()] == [
        *["dr/scale-out@v1"] * 2,
        *["dr/scale-in@v1"] * 2,
    ]
    assert world.stages[0]["decision"].mode.generation == 1


@pytest.mark.req("DEC-4")
def test_a_step_rests_before_the_next() -> None:
    """With the load as high as ever, two steps are never closer than the cooldown after the outcome of the first."""
    world = loaded()
    for _ in range(16):
        world.watch(1)
        if len(bursts(world)) > len(world.outcomes()):
            run(world)

    first, second = bursts(world)
    ended = world.outcomes()[0].timestamp_utc
    assert first.timestamp_utc is not None
    assert second.timestamp_utc is not None
    assert second.timestamp_utc - ended >= timedelta(seconds=6)


@pytest.mark.req("DEC-4")
def test_giving_back_is_slower_than_buying() -> None:
    """The load is gone: nothing for `stable_for_s`, though that is four times `confirm_for_s`."""
    world = loaded()
    world.watch(4)
    run(world)
    world.values["load"] = 0.1
    world.watch(7)
    early = len(bursts(world))
    world.watch(5)

    assert (early, len(bursts(world))) == (1, 2)


@pytest.mark.req("DEC-4")
def test_between_the_thresholds_nothing_is_given_back() -> None:
    """Over the leave threshold and under the other one for long: what was bought stays, until the load has left."""
    world = loaded(bursting(rule={"profiles": ["daily", "busy"]}))
    world.watch(4)
    run(world)
    world.values["load"] = 0.7
    world.watch(20)
    between = len(bursts(world))
    world.values["load"] = 0.45
    world.watch(10)

    assert between == 1
    assert [d.scaling.direction for d in bursts(world) if d.scaling] == [Direction.OUT, Direction.IN]


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_not_known_buys_nothing_and_gives_nothing_back(value: float | None) -> None:
    """No value, or none that is a number, for minutes: no burst either way."""
    world = loaded()
    world.watch(4)
    run(world)
    world.values["load"] = value
    world.watch(20)

    assert len(bursts(world)) == 1


@pytest.mark.req("DEC-4")
def test_weights_decide_how_much_pressure_is_enough() -> None:
    """One of two signals with half of the weight is too little; both are enough. In needs every one to be well."""
    world = loaded(bursting(QUEUE))
    world.watch(8)
    alone = bursts(world)
    world.values["queue"] = 500.0
    world.watch(4)
    run(world)
    world.values["load"] = 0.1
    world.watch(20)

    assert alone == []
    assert [d.scaling.direction for d in bursts(world) if d.scaling] == [Direction.OUT]


@pytest.mark.fault(8)
@pytest.mark.req("DEC-4", "DSP-3")
def test_a_quota_denies_a_burst_by_name() -> None:
    """`gcp_quota` is bad: denied, its request denied too; when nothing is known of it: a hold, and no request."""
    world = loaded(bursting(QUOTA, rule={"checks": ["gcp_quota"]}))
    world.values["gcp_quota"] = 0.0
    world.watch(4)
    world.settle()
    (denied,) = bursts(world)
    requests = list(world.disk["requests"].records.values())
    unknown = loaded(bursting(QUOTA, rule={"checks": ["gcp_quota"]}))
    unknown.values["gcp_quota"] = None
    unknown.watch(4)
    unknown.settle()

    assert denied.dr_mode is DrMode.DENY
    assert "target check gcp_quota is bad" in denied.rationale
    assert [b'"status":"denied"' in data for data in requests] == [True]
    assert [d.incident for d in unknown.decisions()] == ["pg-g1-hold-burst-unknown-1"]
    assert unknown.disk["requests"].records == {}


@pytest.mark.req("EXE-3", "DEC-6")
def test_no_burst_while_something_else_is_the_matter() -> None:
    """Held; one vantage point without the primary; a failover that waits for approval; away: never a burst."""
    held = loaded()
    held.say_hold(until=held.clock.now() + timedelta(hours=1))
    held.turn(0, "decision")
    held.watch(8)
    doubted = loaded()
    doubted.seen.primary -= {"witness"}
    doubted.watch(8)
    waiting = loaded()
    waiting.values["load"] = 0.3
    waiting.site_dies()
    waiting.watch(3)
    waiting.settle()
    waiting.site_lives()
    waiting.values["load"] = 0.95
    waiting.watch(8)
    away = loaded(bursting(level="recommend"))
    away.values["load"] = 0.3
    away.site_dies()
    away.watch(3)
    run(away)
    away.site_lives()
    away.values["load"] = 0.95
    away.watch(8)

    assert [bursts(world) for world in (held, doubted, waiting, away)] == [[], [], [], []]
    assert len(waiting.decisions(DecisionType.FAILOVER)) == len(away.decisions(DecisionType.FAILOVER)) == 1
    assert away.stages[0]["decision"].mode.primary == "cloud-db"


@pytest.mark.req("DEC-4")
def test_a_burst_waits_while_anybody_has_lost_the_primary() -> None:
    """One vantage point lost it a moment ago, which asks for nothing yet: no burst; it sees it again: a burst."""
    world = loaded()
    world.watch(1.5)
    world.seen.primary -= {"witness"}
    world.watch(1)
    doubted = world.decisions()
    world.seen.primary |= {"witness"}
    world.watch(0.5)

    assert doubted == []
    assert len(bursts(world)) == 1


@pytest.mark.req("DEC-4", "INV-5")
def test_vantage_points_that_disagree_about_pressure_ask_for_nothing() -> None:
    """Two see the load, and a third does not, or is silent: neither out nor in. All three: out."""
    signals = [signal.body() for signal in policy().signals]
    rule = policy(signals=[*signals, {**LOAD, "vantages": list(VANTAGES)}], burst=RULE)
    world = loaded(rule)
    world.watch(1)
    world.says["witness"] = 0.1
    world.watch(4)
    disagreeing = bursts(world)
    world.says["witness"] = None
    world.watch(4)
    silent = bursts(world)
    world.says.clear()
    world.watch(4)

    assert (disagreeing, silent) == ([], [])
    assert len(bursts(world)) == 1


@pytest.mark.req("DEC-4")
def test_one_sample_is_no_pressure() -> None:
    """With a confirm time of nothing at all it still takes two."""
    world = loaded(bursting(rule={"confirm_for_s": 0.0}))
    world.watch(0.25)
    early = bursts(world)
    world.watch(0.25)

    assert (early, len(bursts(world))) == ([], 1)


@pytest.mark.req("EXE-3", "DEC-4")
def test_the_end_of_another_run_is_no_end_of_a_burst() -> None:
    """A failover that waited fails while a burst waits for its approval: it is still open, and not decided twice."""
    world = loaded(bursting(cooldown_s=2.0, level="recommend", rule={"cooldown_s": 1.0}))
    world.watch(4)
    world.settle()
    world.site_dies()
    world.watch(3)
    world.settle()
    (request,) = [r for r in world.disk["requests"].records if "failover" in r]
    world.runners["cloud-runner"].outcome, world.runners["cloud-runner"].exit_code = Outcome.FAILED, 20
    world.say_yes_to(request)
    world.settle()
    world.site_lives()
    world.turn(0, "decision")
    world.watch(20)

    assert [o.outcome for o in world.outcomes()] == [Outcome.FAILED]
    assert len(bursts(world)) == 1


@pytest.mark.req("VOC-4")
@pytest.mark.parametrize(("own", "of_burst"), list(itertools.product(Level, Level)))
def test_a_burst_never_may_more_than_the_service(own: Level, of_burst: Level) -> None:
    """Its level is the lower one of the two."""
    world = loaded(bursting(rule={"level": str(of_burst)}, level=str(own)))
    world.watch(4)
    order = list(Level)

    assert [d.level for d in bursts(world)] == [order[min(order.index(own), order.index(of_burst))]]


@pytest.mark.req("VOC-2", "UX-2", "DEC-4")
@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"target_cloud": "ibm"}, "burst.target_cloud: "),
        ({"level": "shout"}, "burst.level: "),
        ({"profiles": ["one"]}, "burst.profiles: "),
        ({"profiles": ["one", "one"]}, "a profile stands twice"),
        ({"stable_for_s": 1.0}, "giving capacity back is the slower one"),
        ({"checks": ["gcp_billing"]}, "gcp_billing is no signal about the target"),
        ({"confirm_for": 3}, "burst.confirm_for: "),
    ],
)
def test_a_burst_rule_that_cannot_be_meant_is_refused(rule: dict[str, Any], says: str) -> None:
    """With its path, or in words."""
    with pytest.raises(RecordError, match=says):
        bursting(rule=rule)


@pytest.mark.req("DEC-4", "UX-2")
def test_pressure_and_burst_belong_together() -> None:
    """Signals about pressure without a rule, and a rule without such a signal: both are refused."""
    signals = [signal.body() for signal in policy().signals]

    with pytest.raises(RecordError, match="load is about pressure, and there is no burst"):
        policy(signals=[*signals, LOAD])
    with pytest.raises(RecordError, match="no signal is about pressure"):
        policy(burst=RULE)
