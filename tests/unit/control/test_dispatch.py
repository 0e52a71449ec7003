"""Routing: which decision becomes which request, and what is ignored or denied with a reason (DSP-1 to DSP-4)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hyops.control.dispatch import Ignored, Routed, choose, route
from hyops.errors import RecordError, UnsafePlanError
from hyops.model.decision import Decision
from hyops.model.dispatch import ApprovalDemand, DispatchRequest, Route
from hyops.model.plan import Plan
from hyops.model.routes import Routes
from hyops.model.vocabulary import RequestStatus
from hyops.testing.clock import EPOCH
from simulation.world import plan_for, routes

MINIMAL = {
    "decision_id": "decision-manual-1",
    "decision_type": "cutover",
    "rationale": "synthetic check",
    "checks": [{"name": "gcp_billing", "status": "degraded"}],
}
LANE = {"target_ref": "dr/x@v1", "target_env": "lab", "execution_plane": "runner-local"}


def decision(**changes: Any) -> Decision:
    """A trigger of the loop's own."""
    body = {
        "decision_id": "decision-1",
        "decision_type": "failover",
        "rationale": "lost",
        "level": "trigger",
        "service": "pg",
        "generation": 1,
        "env": "lab",
        "requires_approval": False,
    }
    return Decision.of({**body, **changes})


def routed(made: Decision, where: Routes | None = None, *, signed: bool = True) -> Routed | Ignored:
    """Route it now."""
    return route(
        made,
        source_file="d.json",
        signed=signed,
        routes=where or routes(),
        plan_for=plan_for,
        now=EPOCH,
        max_age_s=600,
    )


def request(made: Decision, where: Routes | None = None, *, signed: bool = True) -> Any:
    """The request it becomes."""
    found = routed(made, where, signed=signed)
    assert isinstance(found, Routed)
    return found.request


@pytest.mark.req("DSP-3", "VOC-1")
def test_the_documented_synthetic_record_waits_for_approval() -> None:
    """A hand-written minimal record with an older word: awaiting approval, and both words are kept."""
    made = Decision.of(MINIMAL)
    asked = request(made, signed=False)

    assert (asked.status, asked.decision_type, asked.source_decision_signed) == ("awaiting-approval", "failover", False)
    assert made.source_decision_type == "cutover"
    assert "-cutover-" in asked.dispatch_id


@pytest.mark.req("DSP-3")
def test_a_degraded_check_of_the_target_is_a_warning_on_its_route() -> None:
    """`gcp_billing: degraded` warns on a route to gcp, and not on one that goes elsewhere."""
    to_gcp = routes(dispatcher_routes={"cutover": {**LANE, "runner_ref": "gcp-ops-runner"}})

    assert request(Decision.of(MINIMAL), to_gcp).warnings == ["gcp_billing: degraded"]
    assert request(Decision.of(MINIMAL)).warnings == []


@pytest.mark.req("DSP-3")
@pytest.mark.parametrize("name", ["gcp_billing", "gcp.billing", "gcp-billing", "GCP_billing", "Gcp-Up", "Target-lag"])
def test_a_check_of_the_target_warns_however_it_is_spelt(name: str) -> None:
    """People write names with any separator and in any case; the first word says what it is about."""
    made = Decision.of({**MINIMAL, "target_cloud": "gcp", "checks": [{"name": name, "status": "degraded"}]})

    assert request(made).warnings == [f"{name}: degraded"]


@pytest.mark.req("DSP-3")
@pytest.mark.parametrize("name", ["gcpish_billing", "aws_billing", "quota_gcp", "billing"])
def test_a_check_of_something_else_is_no_warning(name: str) -> None:
    """A cloud that is not the route's, or a word that only begins like it, concerns no approver here."""
    made = Decision.of({**MINIMAL, "target_cloud": "gcp", "checks": [{"name": name, "status": "degraded"}]})

    assert request(made).warnings == []


@pytest.mark.req("LOOP-1", "DSP-2", "APR-2")
@pytest.mark.parametrize("length", [20, 21, 29, 30, 64])
def test_the_id_of_a_request_is_a_name_whatever_word_the_decision_had(length: int) -> None:
    """A foreign word of 64 letters: the id keeps its unique end, and the marker's name is one too."""
    made, other = (decision(source_decision_type="x" * length, rationale=why) for why in ("lost", "gone"))
    ids = {request(made).dispatch_id, request(other).dispatch_id}

    assert len(ids) == 2
    assert all(len(f"{one}.approved") <= 64 for one in ids)


@pytest.mark.req("LOOP-1", "DSP-3")
def test_a_warning_of_a_check_that_says_all_it_may_is_cut() -> None:
    """The longest reason, with the check's name before it: still a text, the same one at every look."""
    long = [{"name": "gcp_b", "status": "bad", "reason": "y" * 4096}]
    made = decision(target_cloud="gcp", checks=long)

    (warning,) = request(made).warnings
    assert (len(warning), warning[:8], warning[-1]) == (4096, "gcp_b: y", "\N{HORIZONTAL ELLIPSIS}")
    assert request(made).digest() == request(made).digest()


@pytest.mark.req("LOOP-1", "DSP-2")
@pytest.mark.parametrize(
    "changes",
    [
        {"dr_mode": "deny", "rationale": "z" * 4096},
        {"checks": [{"name": "stop", "status": "bad", "reason": "y" * 4096}]},
    ],
)
def test_a_denial_with_the_longest_reason_is_denied(changes: dict[str, Any]) -> None:
    """What is said beside a foreign text does not make it too long to be recorded."""
    strict = routes(dispatcher_routes={"failover": {**LANE, "deny_on": ["stop"], "runner_ref": "r"}})
    asked = request(decision(**changes), strict)

    assert (asked.status, len(asked.reason)) == ("denied", 4096)


@pytest.mark.req("DSP-3")
def test_a_route_can_deny_on_a_check() -> None:
    """`deny_on` makes the request denied, naming the check."""
    strict = routes(dispatcher_routes={"cutover": {**LANE, "deny_on": ["gcp_billing"]}})
    asked = request(Decision.of(MINIMAL), strict)

    assert (asked.status, asked.plan_digest) == ("denied", None)
    assert "gcp_billing" in asked.reason


@pytest.mark.req("INV-5")
def test_an_unknown_word_is_refused() -> None:
    """A decision type or a check's status that nobody knows is an error, never a guess."""
    with pytest.raises(RecordError, match="decision_type"):
        Decision.of({**MINIMAL, "decision_type": "failovr"})
    with pytest.raises(RecordError, match="status"):
        Decision.of({**MINIMAL, "checks": [{"name": "x", "status": "meh"}]})


@pytest.mark.req("VOC-4", "APR-3")
@pytest.mark.parametrize(
    ("changes", "signed", "status"),
    [
        ({}, True, "queued"),
        ({}, False, "awaiting-approval"),
        ({"level": "recommend"}, True, "awaiting-approval"),
        ({"requires_approval": True}, True, "awaiting-approval"),
    ],
)
def test_the_strictest_wins(changes: dict[str, Any], signed: bool, status: str) -> None:
    """Only a signed trigger that asks for nothing, on a route that asks for nothing, is queued."""
    free = routes(dispatcher_routes={"failover": {**LANE, "requires_approval": False, "runner_ref": "r"}})

    assert request(decision(**changes), free, signed=signed).status == status


@pytest.mark.req("APR-3", "APR-1")
@pytest.mark.parametrize(
    ("of_decision", "of_route", "of_env", "required"),
    [
        (None, None, None, 1),
        (None, None, 2, 2),
        (None, 3, 2, 3),
        (None, 1, 2, 2),
        (4, 3, 2, 4),
        (1, 1, 3, 3),
        (2, None, None, 2),
    ],
)
def test_the_largest_number_of_approvals_is_recorded(
    of_decision: int | None, of_route: int | None, of_env: int | None, required: int
) -> None:
    """Decision, route and environment each may name one; nobody lowers another's, and approvers sign it."""
    lane = {**LANE, "runner_ref": "r", **({} if of_route is None else {"approvals_required": of_route})}
    where = routes(dispatcher_routes={"failover": lane}, **({} if of_env is None else {"approvals_required": of_env}))
    asked = request(decision(**({} if of_decision is None else {"approvals_required": of_decision})), where)
    one = asked.model_copy(update={"approvals": ApprovalDemand(required=required + 1)})

    assert (asked.approvals, asked.requires_approval) == (ApprovalDemand(required=required), True)
    assert one.digest() != asked.digest()


@pytest.mark.req("APR-3")
@pytest.mark.parametrize("who", ["nobody", "decision", "route"])
def test_who_names_a_number_asks_for_approval(who: str) -> None:
    """A route that waives the approval and names how many it takes does not; the environment's is no demand."""
    number = {"approvals_required": 2}
    lane = {**LANE, "requires_approval": False, "runner_ref": "r", **(number if who == "route" else {})}
    where = routes(dispatcher_routes={"failover": lane}, approvals_required=3)
    asked = request(decision(**(number if who == "decision" else {})), where)

    assert (asked.requires_approval, asked.approvals) == (
        (False, ApprovalDemand(required=0)) if who == "nobody" else (True, ApprovalDemand(required=3))
    )


@pytest.mark.req("APR-3", "INV-5")
@pytest.mark.parametrize(("waived", "required"), [(False, 0), (True, 1), (False, -1), (False, 11)])
def test_a_request_that_contradicts_itself_is_refused(waived: bool, required: int) -> None:
    """It needs approval by none, or none by one; or a number that cannot be."""
    body = request(decision()).body()
    body |= {"requires_approval": not waived, "approvals": {"required": required}}

    with pytest.raises(RecordError, match="approvals"):
        DispatchRequest.of(body)


@pytest.mark.req("APR-3")
def test_a_route_that_says_nothing_asks_for_approval() -> None:
    """Without a word in the route the dispatcher's own default stands."""
    assert request(decision()).requires_approval


@pytest.mark.req("DSP-4", "VOC-4", "LOOP-2")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"decision_type": "burst"}, "no_route:burst"),
        ({"level": "monitor"}, "level:monitor"),
        ({"dry_run": True}, "dry-run"),
        ({"env": "prod"}, "foreign-env:prod"),
        ({"expires_at": "2026-01-31T11:59:59Z"}, "expired:20260131T115959Z"),
        ({"timestamp_utc": "2026-01-31T13:00:00Z"}, "from-the-future:20260131T130000Z"),
    ],
)
def test_what_is_not_for_us_is_ignored_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    """No request, and the reason in words."""
    assert routed(decision(**changes)) == Ignored(reason)


@pytest.mark.req("DSP-1")
def test_the_most_specific_route_wins() -> None:
    """A plain route, one for the service, one for service and mode: the decision selects the blueprint."""
    several = routes(
        dispatcher_routes={
            "failover": [
                {**LANE, "target_ref": "plain@v1"},
                {**LANE, "target_ref": "service@v1", "when": {"service": "pg"}},
                {**LANE, "target_ref": "both@v1", "when": {"service": "pg", "dr_mode": "restore"}},
            ]
        }
    )
    chosen = [choose(d, several) for d in (decision(dr_mode="restore"), decision(), decision(service="other"))]

    assert [c.target_ref if c else None for c in chosen] == ["both@v1", "service@v1", "plain@v1"]


@pytest.mark.req("DSP-1", "VOC-1")
@pytest.mark.parametrize(
    "table",
    [
        {"failover": LANE, "cutover": LANE},
        {"failover": [LANE, LANE]},
        {"failover": [{**LANE, "when": {"service": "pg"}}, {**LANE, "when": {"dr_mode": "restore"}}]},
        {"failovr": LANE},
    ],
)
def test_ambiguous_routes_are_refused_when_they_are_read(table: dict[str, Any]) -> None:
    """Two words for one type, a tie, or a word nobody knows: refused before any decision comes."""
    with pytest.raises(RecordError):
        routes(dispatcher_routes=table)


@pytest.mark.req("BP-3")
def test_an_unsafe_plan_is_a_denied_request() -> None:
    """What the engine refuses to plan is visible as denied, with its words."""

    def refuses(route_: Route, made: Decision) -> Plan:
        raise UnsafePlanError("promotes without a fence")

    found = route(decision(), source_file="d", signed=True, routes=routes(), plan_for=refuses, now=EPOCH, max_age_s=60)

    assert isinstance(found, Routed)
    assert (found.request.status, found.plan) == ("denied", None)
    assert "without a fence" in str(found.request.reason)


@pytest.mark.req("LOOP-2")
def test_a_request_never_outlives_its_decision() -> None:
    """The earlier of the two ends counts."""
    short = decision(expires_at="2026-01-31T12:00:30Z")

    assert request(short).expires_at == EPOCH + timedelta(seconds=30)
    assert request(decision()).expires_at == EPOCH + timedelta(seconds=600)


PUBLIC = {**LANE, "execution_plane": "public-ephemeral", "runner_ref": "cloud-runner"}
ACCESS = {"occasion": "drill", "source_ranges": ["198.51.100.7/32"], "expires_after_s": 900}


@pytest.mark.req("ACC-1", "DSP-1")
@pytest.mark.parametrize(
    ("access", "drills", "denied"),
    [
        (ACCESS, True, None),
        (ACCESS, False, "access.occasion is drill, and lab is not for drills"),
        ({**ACCESS, "occasion": "break-glass"}, False, None),
        ({**ACCESS, "occasion": "break-glass"}, True, None),
    ],
)
def test_a_public_way_for_a_drill_is_planned_only_where_drills_are(
    access: dict[str, Any], drills: bool, denied: str | None
) -> None:
    """The request is denied with the reason before anybody is asked; a broken glass is asked for anywhere."""
    where = Routes.of({"env": "lab", "drills": drills, "dispatcher_routes": {"failover": {**PUBLIC, "access": access}}})

    made = request(decision(), where)

    assert made.status is (RequestStatus.DENIED if denied else RequestStatus.AWAITING_APPROVAL)
    assert denied is None or denied in str(made.reason)


@pytest.mark.req("ACC-1", "INV-5")
@pytest.mark.parametrize(
    "wrong",
    [
        {"occasion": "failover"},
        {"source_ranges": []},
        {"source_ranges": ["0.0.0.0/0"]},
        {"source_ranges": ["198.51.100.0/24"]},
        {"source_ranges": ["198.51.100.7/32", "203.0.113.1/32"]},
        {"expires_after_s": 0},
        {"expires_after_s": 14401},
    ],
)
def test_a_public_way_for_everybody_or_for_ever_is_no_route(wrong: dict[str, Any]) -> None:
    """Another occasion, no source or a wide one, no end or a far one: refused when the routes are read."""
    with pytest.raises(RecordError, match="access"):
        Routes.of({"env": "lab", "dispatcher_routes": {"failover": {**PUBLIC, "access": {**ACCESS, **wrong}}}})


@pytest.mark.req("LOOP-2", "DSP-4")
@pytest.mark.parametrize(("age_s", "old"), [(599, False), (600, True), (86400 * 400, True)])
def test_a_record_that_names_no_end_is_over_by_its_age(age_s: int, old: bool) -> None:
    """Written by hand, or by an older loop, and found a year later: it is ignored, with its time as the reason."""
    found = routed(decision(timestamp_utc=(EPOCH - timedelta(seconds=age_s)).isoformat()), signed=False)

    assert isinstance(found, Ignored) is old
    if isinstance(found, Ignored):
        assert found.reason.startswith("too-old:20")


@pytest.mark.req("APR-1", "DSP-2")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("changes", "signed", "key", "known"),
    [
        ({}, True, None, True),
        ({"requested_by": "ada"}, True, None, False),
        ({"requested_by": "ada", "requester_key": "SHA256:k"}, True, "SHA256:k", True),
        ({"requested_by": "ada", "requester_key": "SHA256:k"}, False, None, False),
        ({}, False, None, False),
    ],
)
def test_a_request_says_whether_anybody_proved_who_asked(
    changes: dict[str, Any], signed: bool, key: str | None, known: bool
) -> None:
    """The decision stage's signature vouches for the key: without it the key in a hand-written decision is a word."""
    asked = request(decision(**changes), signed=signed)

    assert (asked.requester_key, asked.requester_known) == (key, known)


@pytest.mark.req("LOOP-2", "DSP-4")
def test_a_record_from_the_last_day_of_time_is_from_the_future() -> None:
    """Written by hand; nothing is added to its date that no date can hold."""
    found = routed(decision(timestamp_utc="9999-12-31T23:59:59Z"), signed=False)

    assert isinstance(found, Ignored)
    assert found.reason.startswith("from-the-future:9999")
