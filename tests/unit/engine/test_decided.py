"""What a decision's optional fields make of its plan: an effect that approvers sign, or a refusal (DEC-1a)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyops.compose_loop import planner
from hyops.control.decision import asked_inputs, operator_decision
from hyops.engine import safety
from hyops.errors import ConfigError, HyopsError, RecordError, UnsafePlanError
from hyops.model.decision import Decision
from hyops.model.dispatch import Route
from hyops.model.observed import Asked
from hyops.model.plan import Plan
from hyops.model.routes import Routes
from hyops.model.vocabulary import DecisionType, Occasion
from hyops.services.config_requests import DispatchConfig
from hyops.services.deploy_plan import Rules
from simulation.world import World, policy

REF = "test/switch@v1"
ENDPOINT = {"name": "pg.lab.hyops.internal", "zone": "lab.hyops.internal", "authorities": ["x:53"], "ttl_s": 30}
OTHER = {**ENDPOINT, "name": "ro.lab.hyops.internal"}
PROFILES = {"small": {"cpus": 2, "memory_gb": 8}, "large": {"cpus": 16, "memory_gb": 64}}
SECRETS = {"database": {"PGPASSWORD": "vault", "REPLICATION_PASSWORD": "vault"}}


def step(name: str, module: str, phase: str, *requires: str, **inputs: Any) -> dict[str, Any]:
    """One step of the blueprint."""
    return {"id": name, "module_ref": module, "phase": phase, "requires": list(requires), "inputs": inputs}


STEPS = [
    step("fence", "native/fence", "prepare"),
    step("promote", "native/postgresql-promote", "data", "fence"),
    step("verify", "native/verify-write", "data", "promote"),
    step("cutover", "native/dns-cutover", "traffic", "verify", endpoint=ENDPOINT),
    step("verify-traffic", "native/verify-traffic", "traffic", "cutover", endpoint=ENDPOINT),
    step("count", "native/count-loss", "evidence", "promote", "verify-traffic"),
]
COPY = step("copy", "native/second-copy", "prepare", copy_name="b", folder="/mnt/b", max_age_s=86400.0)
TWO = [
    *STEPS[:3],
    step("cut-ro", "native/dns-cutover", "traffic", "verify", endpoint=OTHER),
    step("cut-rw", "native/dns-cutover", "traffic", "verify", endpoint=ENDPOINT),
    step("see-rw", "native/verify-traffic", "traffic", "cut-rw", endpoint=ENDPOINT),
]


class Planner:
    """The dispatcher's own planner on a catalogue with one blueprint."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plan(
        self,
        steps: list[dict[str, Any]] | None = None,
        *,
        sizes: bool = False,
        given: dict[str, Any] | None = None,
        **wishes: Any,
    ) -> Plan:
        """The plan of a failover whose decision has these optional fields."""
        chosen = [*(steps or STEPS)]
        if sizes:
            size = step("size", "native/noop", "prepare", size="{{ workload }}")
            chosen = [size, *chosen]
        body = {
            "api_version": "hybridops/v1",
            "kind": "BlueprintSpec",
            "blueprint_ref": REF,
            "title": "test",
            "inputs": {"workload": "how large"} if sizes else {},
            "steps": chosen,
        }
        path = self._folder / "blueprints" / REF / "blueprint.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body))
        lane = {"target_ref": REF, "target_env": "lab", "execution_plane": "runner-local", "runner_ref": "cloud-runner"}
        config = DispatchConfig.of(
            {
                "api_version": "hybridops/v1",
                "kind": "DecisionDispatcher",
                "signing_key": "/k",
                "trusted_keys": "/t",
                "services": ["pg"],
                "catalogs": [str(self._folder)],
                "routes": {
                    "env": "lab",
                    "dispatcher_routes": {"failover": lane},
                    "workload_profiles": PROFILES,
                    "secret_sync_profiles": SECRETS,
                },
            }
        )
        decision = {"decision_id": "d", "decision_type": "failover", "rationale": "x", "service": "pg", **wishes}
        return planner(config)(Route.of({**lane, "inputs": given or {}}), Decision.of(decision))


@pytest.fixture
def made(tmp_path: Path) -> Planner:
    """A fresh one."""
    return Planner(tmp_path)


@pytest.mark.req("DEC-1a", "INV-4")
def test_a_workload_profile_sizes_the_target(made: Planner) -> None:
    """Its sizes reach the step that takes them, and another profile, or no other size, is another digest."""
    small, large = (made.plan(sizes=True, workload_profile_ref=ref) for ref in ("small", "large"))

    assert small.steps[0].inputs == {"size": {"cpus": 2, "memory_gb": 8, "profile": "small"}}
    assert (large.workload_profile_ref, large.inputs["workload"]["cpus"]) == ("large", 16)
    assert small.digest() != large.digest()


@pytest.mark.req("DEC-1a", "UX-1")
@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"sizes": True, "workload_profile_ref": "smal"}, ConfigError, "'smal' is none of .* did you mean 'small'"),
        ({"workload_profile_ref": "small"}, UnsafePlanError, "has no input 'workload', so it sizes nothing"),
        ({"sizes": True, "workload_profile_ref": "small", "given": {"workload": {"cpus": 1}}}, ConfigError, "already"),
        ({"secret_sync_profile": "databse"}, ConfigError, "'databse' is none of .* did you mean 'database'"),
        ({"secondary_backup_copy_required": True}, UnsafePlanError, "no step verifies a second copy"),
        ({"cutover_policy": {"mode": "manual-gate"}}, UnsafePlanError, "cutover moves traffic without a manual gate"),
        ({"cutover_policy": {"mode": "none", "ttl_s": 5}}, UnsafePlanError, "mode none moves nothing"),
        ({"cutover_policy": {"order": ["pg.lab.hyops.internal", "x"]}}, UnsafePlanError, "this plan moves pg.lab"),
        ({"steps": STEPS[:3], "cutover_policy": {"mode": "none"}}, UnsafePlanError, "moves no traffic"),
    ],
)
def test_a_wish_without_effect_refuses_the_plan(
    made: Planner, how: dict[str, Any], error: type[HyopsError], says: str
) -> None:
    """An unknown profile, a size that nothing takes, a gate that no step is, an order of other names: said by name."""
    with pytest.raises(error, match=says):
        made.plan(**how)


@pytest.mark.req("DEC-1a")
def test_a_secret_sync_profile_selects_what_is_handed_over(made: Planner) -> None:
    """The profile's keys stand in the plan, beside those that a person named; his word on where from wins."""
    plan = made.plan(secret_sync_profile="database", sync_env={"PGPASSWORD": "operator", "TOKEN": "vault"})

    assert plan.secret_sync_profile == "database"
    assert plan.sync_env == {"PGPASSWORD": "operator", "REPLICATION_PASSWORD": "vault", "TOKEN": "vault"}
    assert made.plan().sync_env is None


@pytest.mark.req("DEC-1a", "GATE-1")
def test_a_required_second_copy_is_a_gate_before_anything_changes(made: Planner) -> None:
    """With the gate before the fence the plan stands; behind it, beside it or optional it is refused."""
    fence = {**STEPS[0], "requires": ["copy"]}
    gated = made.plan([COPY, fence, *STEPS[1:]], secondary_backup_copy_required=True)
    bad = {
        "beside": [COPY, *STEPS],
        "optional": [{**COPY, "optional": True}, fence, *STEPS[1:]],
        "behind": [STEPS[0], {**COPY, "requires": ["fence"]}, {**STEPS[1], "requires": ["fence", "copy"]}, *STEPS[2:]],
    }

    assert gated.secondary_backup_copy_required is True
    for steps in bad.values():
        with pytest.raises(UnsafePlanError, match="fence changes something before a second copy is verified"):
            made.plan(steps, secondary_backup_copy_required=True)


@pytest.mark.req("DEC-1a", "BP-3")
def test_the_runner_refuses_a_plan_whose_steps_do_not_keep_its_word(made: Planner) -> None:
    """The same check runs where the effect is: a gate taken out, or a cutover put back, after planning."""
    fence = {**STEPS[0], "requires": ["copy"]}
    gated = made.plan([COPY, fence, *STEPS[1:]], secondary_backup_copy_required=True)
    without = [s.model_copy(update={"requires": []}) if s.id == "fence" else s for s in gated.steps if s.id != "copy"]
    left, moving = made.plan(cutover_policy={"mode": "none"}), made.plan()
    modules = {s.module_ref for s in [*gated.steps, *moving.steps]}

    with pytest.raises(UnsafePlanError, match="no step verifies a second copy"):
        safety.check(gated.model_copy(update={"steps": without}), modules)
    with pytest.raises(UnsafePlanError, match="cutover mode none leaves it where it is"):
        safety.check(left.model_copy(update={"steps": moving.steps}), modules)


@pytest.mark.req("DEC-1a")
def test_cutover_none_leaves_dns_and_says_so(made: Planner) -> None:
    """No step moves or asks for traffic; what came after them comes after what they waited for."""
    plan = made.plan(cutover_policy={"mode": "none"})

    assert [(s.id, s.requires) for s in plan.steps] == [
        ("fence", []),
        ("promote", ["fence"]),
        ("verify", ["promote"]),
        ("count", ["promote", "verify"]),
    ]
    assert plan.cutover is not None
    assert plan.cutover.mode == "none"


@pytest.mark.req("DEC-1a", "DNS-1")
def test_cutover_sets_the_ttl_of_what_moves(made: Planner) -> None:
    """In the cutover and in its check, and nowhere without a policy."""
    plan = made.plan(cutover_policy={"ttl_s": 5})
    ttls = [s.inputs["endpoint"]["ttl_s"] for s in plan.steps if "endpoint" in s.inputs]

    assert ttls == [5, 5]
    assert made.plan().steps[3].inputs["endpoint"]["ttl_s"] == 30


@pytest.mark.req("DEC-1a")
def test_cutover_order_moves_one_endpoint_after_the_other(made: Planner) -> None:
    """Writers first: the readers' cutover waits until traffic to the writers was seen; and the other way round."""
    rw, ro = ENDPOINT["name"], OTHER["name"]
    first = made.plan(TWO, cutover_policy={"order": [rw, ro]})
    second = made.plan(TWO, cutover_policy={"order": [ro, rw]})

    assert [(s.id, s.requires) for s in first.steps[3:]] == [
        ("cut-rw", ["verify"]),
        ("see-rw", ["cut-rw"]),
        ("cut-ro", ["verify", "cut-rw", "see-rw"]),
    ]
    assert [(s.id, s.requires) for s in second.steps[3:]] == [
        ("cut-ro", ["verify"]),
        ("cut-rw", ["verify", "cut-ro"]),
        ("see-rw", ["cut-rw"]),
    ]


WISHES: dict[str, Any] = {
    "workload_profile_ref": "large",
    "secondary_backup_copy_required": True,
    "secret_sync_profile": "database",
    "cutover_policy": {"mode": "none"},
}


@pytest.mark.req("DEC-1a", "DEC-1", "DEC-5")
def test_the_policy_puts_its_wishes_into_every_decision_that_moves() -> None:
    """Of the loop, and of a person; a hold wishes for nothing. They replay, since the policy stands in the inputs."""
    world = World(service_policy=policy(**WISHES))
    world.watch(5)
    asked = Asked(decision_type=DecisionType.FAILOVER, occasion=Occasion.PLANNED, rationale="move", requested_by="bob")
    mine = operator_decision(asked_inputs(world.policy, world.stages[0]["decision"].mode, asked, world.clock.now()))
    world.seen.primary -= {"control"}
    world.watch(5)
    world.site_dies()
    world.watch(5)
    held, moved = world.decisions()

    for decision in (mine, moved):
        body = decision.body()
        assert {key: body.get(key) for key in WISHES} == WISHES
    assert held.decision_type is DecisionType.HOLD
    assert not WISHES.keys() & held.body().keys()


@pytest.mark.req("DEC-1a")
def test_a_deployment_takes_the_profiles_keys_from_the_cache() -> None:
    """Those that the profile takes from there; none of a profile that nobody knows, which its plan then refuses."""
    lane = {"target_ref": REF, "target_env": "lab", "execution_plane": "runner-local"}
    known = {"database": {"A": "vault", "B": "operator", "C": "vault"}}
    where = Routes.of({"env": "lab", "dispatcher_routes": {"failover": lane}, "secret_sync_profiles": known})

    def keys(profile: str | None) -> list[str]:
        nobody: Any = None
        rules = Rules(policy(secret_sync_profile=profile), nobody, where, nobody, 1.0, nobody, "x", executes=True)
        return rules.profile_keys()

    assert (keys("database"), keys("other"), keys(None)) == (["A", "C"], [], [])


@pytest.mark.req("VOC-2", "DEC-1a", "UX-2")
@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"dr_mode": "hope"}, "dr_mode"),
        ({"cutover_policy": {"mode": "maybe"}}, "cutover_policy.mode"),
        ({"cutover_policy": {"ttl_s": -1}}, "cutover_policy.ttl_s"),
        ({"cutover_policy": {"order": []}}, "cutover_policy.order"),
        ({"cutover_policy": {"ttl": 5}}, "cutover_policy.ttl"),
        ({"cutover_policy": "automatic"}, "cutover_policy"),
        ({"workload_profile_ref": "../x"}, "workload_profile_ref"),
        ({"secondary_backup_copy_required": "yes"}, "secondary_backup_copy_required"),
    ],
)
def test_a_word_outside_a_closed_set_is_refused_with_its_path(changes: dict[str, Any], path: str) -> None:
    """In a policy and in a record alike."""
    record = {"decision_id": "d", "decision_type": "failover", "rationale": "x"}

    with pytest.raises(RecordError, match=rf"(^|; |: ){path}: "):
        policy(**changes)
    with pytest.raises(RecordError, match=rf"(^|; |: ){path}: "):
        Decision.of({**record, **changes})


@pytest.mark.req("VOC-2", "VOC-1", "VOC-4")
@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"target_cloud": "ibm"}, "target_cloud"),
        ({"decision_type": "flee"}, "decision_type"),
        ({"level": "shout"}, "level"),
        ({"scaling": {"direction": "up", "size_before": 0, "size_after": 1}}, "scaling.direction"),
        ({"scaling": {"direction": "out", "size_before": 0, "size_after": 2}}, "scaling"),
        ({"scaling": {"direction": "in", "size_before": 0, "size_after": 1}}, "scaling"),
    ],
)
def test_a_record_with_an_unknown_word_is_refused_with_its_path(changes: dict[str, Any], path: str) -> None:
    """Never mapped to the nearest one."""
    record = {"decision_id": "d", "decision_type": "failover", "rationale": "x"}

    with pytest.raises(RecordError, match=rf"(^|; |: ){path}: "):
        Decision.of({**record, **changes})
