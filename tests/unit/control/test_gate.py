"""The gate lets through what belongs together, and a runner that all agree on, outside of what failed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ci_site import ROUTES, RUNNERS
from hyops.compose_runner import MODULES
from hyops.control.gate import Case, Selected, select, validate
from hyops.errors import HyopsError, NotApprovedError, PrerequisiteError, RecordError, UnsafePlanError
from hyops.model.base import Record
from hyops.model.dsse import sign_record
from hyops.model.plan import Plan
from hyops.model.routes import Routes
from hyops.model.runners import RunnerMap
from hyops.model.vocabulary import DecisionType, Level, Occasion, RequestStatus
from hyops.testing import evidence as seeds

SWITCH = seeds.failover()
CASE = Case(SWITCH.decision, SWITCH.request, SWITCH.plan)
NOW = seeds.START + timedelta(seconds=2)


def changed(record: Record, role: str, **changes: Any) -> Any:
    """A record with other values, signed anew by the stage it comes from."""
    return sign_record(record.model_copy(update={**changes, "signature": None}), seeds.STAGES[role])


def of(plan: dict[str, Any] | None = None, decision: dict[str, Any] | None = None, **request: Any) -> Case:
    """A whole, well signed case with other values; digests follow."""
    decided = changed(CASE.decision, "decision", **(decision or {}))
    planned = Plan.of(CASE.plan.body() | (plan or {}))
    links = {
        "source_decision_digest": decided.digest(),
        "plan_digest": planned.digest(),
        "runner_ref": planned.runner_ref,
        "occasion": decided.occasion,
        "decision_type": decided.decision_type,
    }
    return Case(decided, changed(CASE.request, "dispatch", **links, **request), planned)


def validated(case: Case) -> list[str]:
    """The check under test."""
    return validate(case, seeds.VERIFIER, MODULES, NOW)


@pytest.mark.req("RUN-12")
def test_what_the_loop_made_is_let_through() -> None:
    """Without a remark; with what `of` makes of it too, so that the refusals below have one reason each."""
    assert validated(CASE) == []
    assert validated(of()) == []


@pytest.mark.req("RUN-12", "INV-4")
@pytest.mark.parametrize(
    "case",
    [
        replace(CASE, plan=Plan.of(CASE.plan.body() | {"inputs": {"source": "onprem-db", "target": "onprem-db"}})),
        replace(CASE, plan=Plan.of(CASE.plan.body() | {"runner_ref": "onprem-runner"})),
        replace(CASE, decision=changed(CASE.decision, "decision", rationale="another one")),
        of(source_decision_id="decision-20260314T030008Z-other-00000000"),
        of(target_env="prod"),
        of(target_ref="dr/other@v1"),
        of(target_kind="module"),
        of(service="pg2"),
        of(generation=8),
        of(level=Level.RECOMMEND),
        of(decision={"service": "pg2"}),
        of(decision={"dry_run": True}),
        of(decision={"level": Level.MONITOR}, level=Level.MONITOR),
        of(plan={"env": "prod"}),
        of(plan={"execution_plane": "bastion-explicit"}),
    ],
)
def test_records_that_do_not_belong_together_are_refused(case: Case) -> None:
    """Every field that stands in two records, and every digest: exit code 16, also when all of them are signed."""
    with pytest.raises(UnsafePlanError):
        validated(case)


@pytest.mark.req("RUN-12", "BP-3")
def test_a_plan_that_cannot_be_safe_is_refused() -> None:
    """No fence before the promotion, although every digest fits and every signature is good."""
    steps = [step for step in CASE.plan.body()["steps"] if step["id"] != "fence"]
    steps[0]["requires"] = []

    with pytest.raises(UnsafePlanError, match="without a fence"):
        validated(of(plan={"steps": steps}))


@pytest.mark.req("RUN-12", "DSP-2", "INV-2")
def test_a_single_module_is_let_through_and_a_part_of_a_switch_is_not() -> None:
    """The request names the module, and the plan is its one step."""
    for ref, whole in (("native/noop", True), ("native/fence", False)):
        plan = {"blueprint_ref": f"module/{ref}@v1"}
        case = of(
            plan=plan | {"steps": [{"id": "one", "module_ref": ref, "phase": "prepare"}]},
            target_kind="module",
            target_ref=ref,
        )
        if whole:
            assert validated(case) == []
            continue
        with pytest.raises(UnsafePlanError, match="never runs alone"):
            validated(case)


@pytest.mark.req("RUN-12", "LOOP-2")
@pytest.mark.parametrize("record", ["request", "decision"])
@pytest.mark.parametrize("role", ["approval", "runner:cloud-runner", None])
def test_a_record_that_its_stage_did_not_sign_is_refused(record: str, role: str | None) -> None:
    """Unsigned, or signed by another stage's key."""
    plain = getattr(CASE, record).model_copy(update={"signature": None})
    with pytest.raises(RecordError):
        validated(replace(CASE, **{record: plain if role is None else sign_record(plain, seeds.STAGES[role])}))


@pytest.mark.req("RUN-12", "DSP-3")
def test_a_decision_written_by_hand_is_remarked() -> None:
    """It needs no signature where the request says that it has none; the remark says what follows."""
    case = of(source_decision_signed=False)
    plain = replace(case, decision=case.decision.model_copy(update={"signature": None}))

    assert "unsigned" in validated(plain)[0]


@pytest.mark.req("RUN-12", "APR-3")
@pytest.mark.parametrize(
    "case",
    [
        of(status=RequestStatus.DENIED, reason="gcp_billing: degraded"),
        of(status=RequestStatus.EXPIRED),
        of(expires_at=NOW),
        of(decision={"expires_at": NOW}),
        of(timestamp_utc=NOW + timedelta(seconds=301)),
        of(decision={"timestamp_utc": NOW + timedelta(seconds=301)}),
    ],
)
def test_what_is_denied_over_or_not_yet_is_refused(case: Case) -> None:
    """Exit code 13."""
    with pytest.raises(NotApprovedError):
        validated(case)


def selected(
    case: Case = CASE,
    *,
    routes: dict[str, Any] = ROUTES,
    runners: dict[str, Any] | None = None,
    **more: Any,
) -> Selected:
    """The selection under test; `runners` changes the map."""
    return select(case, Routes.of(routes), RunnerMap.of(RUNNERS | (runners or {})), **more)


@pytest.mark.req("RUN-2", "RUN-12")
def test_the_mapped_runner_outside_of_the_failed_site_is_selected() -> None:
    """Decision type and target cloud lead to it; its site is the one that was written down."""
    assert selected() == Selected("cloud-runner", "cloud", None)


def place(**changes: Any) -> dict[str, Any]:
    """A map in which the cloud runner is elsewhere."""
    return {"runners": RUNNERS["runners"] | {"cloud-runner": {"site": "cloud"} | changes}}


@pytest.mark.req("RUN-2", "RUN-12")
@pytest.mark.parametrize(
    ("runners", "words"),
    [
        (place(site="onprem"), {}),
        (place(reached_through=["onprem"]), {}),
        (place(reached_through=["exchange"]), {"failed_sites": ["exchange"]}),
        ({}, {"failed_sites": ["cloud"]}),
        ({"host_sites": {"onprem-db": "cloud"}}, {}),
    ],
)
def test_a_runner_in_or_behind_the_failed_site_is_refused(runners: dict[str, Any], words: dict[str, Any]) -> None:
    """In it, reached through it, through another site that is lost, or where the source really is."""
    with pytest.raises(PrerequisiteError, match="which failed"):
        selected(runners=runners, **words)


@pytest.mark.req("RUN-2")
def test_a_planned_switch_may_run_where_the_source_is_unless_that_site_is_lost() -> None:
    """Nothing has failed there; told that it has, it counts."""
    case = of(decision={"occasion": Occasion.PLANNED})

    assert selected(case, runners=place(reached_through=["onprem"])).runner_ref == "cloud-runner"
    with pytest.raises(PrerequisiteError):
        selected(case, runners=place(reached_through=["onprem"]), failed_sites=["onprem"])


@pytest.mark.req("RUN-2", "INV-5")
def test_without_a_failed_site_no_runner_is_outside_of_it() -> None:
    """The source's site is unknown: refused, until somebody says which site failed."""
    nowhere = {"host_sites": {"cloud-db": "cloud"}}
    with pytest.raises(PrerequisiteError, match="which site failed"):
        selected(runners=nowhere)

    assert selected(runners=nowhere, failed_sites=["onprem"]).site == "cloud"


def routed(**changes: Any) -> dict[str, Any]:
    """A mapping with another route."""
    (route,) = ROUTES["dispatcher_routes"]["failover"]
    return ROUTES | {"dispatcher_routes": {"failover": {**route, **changes}}}


@pytest.mark.req("RUN-2", "RUN-12")
@pytest.mark.parametrize(
    ("case", "routes"),
    [
        (CASE, routed(runner_ref="onprem-runner")),
        (CASE, routed(when={"target_cloud": "azure"})),
        (CASE, ROUTES | {"dispatcher_routes": {"failback": ROUTES["dispatcher_routes"]["failover"]}}),
        (replace(CASE, plan=Plan.of(CASE.plan.body() | {"runner_ref": "onprem-runner"})), ROUTES),
        (replace(CASE, request=changed(CASE.request, "dispatch", runner_ref="onprem-runner")), ROUTES),
        (replace(CASE, request=changed(CASE.request, "dispatch", runner_ref=None)), ROUTES),
    ],
)
def test_mapping_request_and_plan_agree_or_none_is_selected(case: Case, routes: dict[str, Any]) -> None:
    """No route, or another runner in one of them: exit code 16."""
    with pytest.raises(UnsafePlanError):
        selected(case, routes=routes)


@pytest.mark.req("RUN-2")
def test_failback_runs_on_the_on_prem_plane_alone() -> None:
    """The cloud's runner is refused although everybody agrees on it; the one at home is selected."""
    (lane,) = ROUTES["dispatcher_routes"]["failover"]
    for ref, good in (("cloud-runner", False), ("onprem-runner", True)):
        case = of(
            plan={"decision_type": "failback", "runner_ref": ref}, decision={"decision_type": DecisionType.FAILBACK}
        )
        routes = ROUTES | {"dispatcher_routes": {"failback": {**lane, "runner_ref": ref}}}
        if good:
            assert selected(case, routes=routes).site == "onprem"
            continue
        with pytest.raises(PrerequisiteError, match="on-prem"):
            selected(case, routes=routes)


@pytest.mark.req("RUN-2")
def test_a_runner_that_nobody_wrote_down_is_refused() -> None:
    """Its site is unknown, so it is outside of nothing."""
    with pytest.raises(PrerequisiteError, match="nobody wrote down"):
        selected(runners={"runners": {"onprem-runner": {"site": "onprem"}}})


SEEN: dict[str, Any] = {"cloud-runner": {"ok": True, "runner_ref": "cloud-runner", "site": "cloud"}}


@pytest.mark.req("RUN-2", "RUN-12")
@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"onprem-runner": {"ok": True, "site": "onprem"}},
        {"cloud-runner": {"ok": False, "error": "RunnerUnreachableError", "message": "no route"}},
        {"cloud-runner": {"ok": "true", "site": "cloud"}},
        {"cloud-runner": {"ok": True, "site": "onprem"}},
        {"cloud-runner": {"ok": True}},
    ],
)
def test_a_runner_that_does_not_stand_where_it_should_is_refused(seen: dict[str, Any]) -> None:
    """Not asked, not reachable, or in another site than was written down; it is never made on the way."""
    with pytest.raises(PrerequisiteError):
        selected(seen=seen)
    assert selected(seen=SEEN).ready is True


@pytest.mark.req("RUN-2", "UX-2")
@pytest.mark.parametrize(
    "change",
    [
        {"onprem_sites": []},
        {"onprem_sites": ["moon"]},
        {"runners": {}},
        {"runners": {"a b": {"site": "x"}}},
        {"site": "x"},
    ],
)
def test_a_map_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    """No on-prem site, one where nothing is, no runner, odd names, unknown keys."""
    with pytest.raises(HyopsError):
        RunnerMap.of(RUNNERS | change)
