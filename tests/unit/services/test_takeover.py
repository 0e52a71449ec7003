"""A survivor runs an order only as it was sealed and approved, once, and under the generation of the quorum."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hyops.errors import (
    ConfigError,
    HyopsError,
    NotApprovedError,
    PrerequisiteError,
    RecordError,
    StaleGenerationError,
    UnsafePlanError,
    UsageError,
)
from hyops.model import canonical
from hyops.model.approval import ApprovalStatement
from hyops.model.observed import Mode
from hyops.model.takeover import StandbyOrder
from hyops.model.vocabulary import Outcome, RequestStatus
from hyops.services.own_trust import refuse_own_trust
from hyops.services.takeover_paper import Paper, approval_of, statement_for
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.evidence import APPROVER, STAGES, SeedApprovals
from hyops.testing.runs import step
from takeover_kit import BOB, EVE, GENERATION, SOURCE, Crashed, Survivor, later, order_for, plan_for, resigned, said

pytestmark = [pytest.mark.req("INV-9"), pytest.mark.fault(30)]

AT = later(EPOCH, 86400)
ORDER = order_for(EPOCH)


def _survivor(tmp_path: Path, *held: StandbyOrder, generation: int = GENERATION, **more: Any) -> Survivor:
    """A runner at the day of the loss; the quorum is at `generation`. However its orders came to lie there."""
    runner = Survivor(tmp_path, FakeClock(AT), **more)
    asyncio.run(runner.lease.initialise("pg", generation, SOURCE))
    runner.plant(*(held or (ORDER,)))
    return runner


@pytest.mark.req("INV-4", "APR-1", "APR-3")
def test_an_approved_order_is_run_as_it_was_sealed(tmp_path: Path) -> None:
    """Two people, the generation of the quorum: the run has the sealed bytes, and says who began it and why."""
    runner = _survivor(tmp_path)

    spec = runner.run(said(ORDER, AT, APPROVER, BOB))

    assert (spec.plan, spec.request, spec.decision) == (ORDER.plan, ORDER.request, ORDER.decision)
    assert spec.execution.approval.approved_by == [a.statement.approver for a in spec.approvals]
    assert {a.statement.approver for a in spec.approvals} == {APPROVER, BOB}
    assert spec.execution.takeover is not None
    assert (spec.execution.takeover.by, spec.execution.takeover.generation_seen) == (APPROVER, GENERATION)
    assert spec.execution.signature is not None
    assert spec.execution.signature.keyid == STAGES["runner:cloud-runner"].keyid
    assert runner.started == [spec]


def _edited(order: StandbyOrder) -> StandbyOrder:
    return order.model_copy(update={"request": order.request.model_copy(update={"rationale": "another"})})


ORDERS: dict[str, tuple[Callable[[], StandbyOrder], type[HyopsError], str]] = {
    "edited order": (lambda: _edited(ORDER), RecordError, "not over these bytes"),
    "edited plan": (lambda: ORDER.model_copy(update={"plan": plan_for("cloud-runner", "x")}), UnsafePlanError, "plan"),
    "edited bundle": (
        lambda: ORDER.model_copy(update={"plan": ORDER.plan.model_copy(update={"bundle": {}, "env": "b"})}),
        UnsafePlanError,
        "the plan is not the request's",
    ),
    "edited inputs": (
        lambda: ORDER.model_copy(update={"inputs": ORDER.inputs.model_copy(update={"now_s": 1.0})}),
        UnsafePlanError,
        "other inputs",
    ),
    "another env": (
        lambda: resigned(ORDER, "request", target_env="other"),
        UnsafePlanError,
        "env: ",
    ),
    "an order of the loop": (
        lambda: resigned(ORDER, "request", condition=None),
        UnsafePlanError,
        "not for a takeover",
    ),
    "a denied request": (
        lambda: resigned(ORDER, "request", status=RequestStatus.DENIED, reason="no plan"),
        UnsafePlanError,
        "denied",
    ),
    "no source": (
        lambda: order_for(EPOCH, plan=plan_for().model_copy(update={"inputs": {}})),
        UnsafePlanError,
        "lost host",
    ),
    "the lost site is here": (
        lambda: order_for(
            EPOCH, plan=plan_for().model_copy(update={"inputs": {**plan_for().inputs, "source": "cloud-db"}})
        ),
        PrerequisiteError,
        "the site that failed",
    ),
}


@pytest.mark.req("INV-4", "INV-8", "RUN-2")
@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_is_not_as_it_was_sealed_runs_nothing(tmp_path: Path, name: str) -> None:
    """Whatever approves it: it is refused by its signatures and digests, shown as that, and nothing begins."""
    make, kind, why = ORDERS[name]
    runner = _survivor(tmp_path, order := make())

    with pytest.raises(kind, match=why):
        runner.run(said(order, AT, APPROVER, BOB))

    assert runner.started == []
    assert os.listdir(runner.folders.takeovers) == []
    (standing,) = runner.take().standing()
    assert standing.fault is not None


@pytest.mark.req("LOOP-2")
def test_an_expired_order_runs_nothing(tmp_path: Path) -> None:
    """After the date that it states it is refused, with the time that it went by."""
    runner = _survivor(tmp_path)
    runner.clock.advance((ORDER.request.expires_at - AT).total_seconds())

    with pytest.raises(NotApprovedError, match="expired at"):
        runner.run(said(ORDER, runner.clock.now(), APPROVER, BOB))
    assert runner.started == []


PAPERS: dict[str, tuple[Callable[[datetime], list[Paper]], str]] = {
    "none": (lambda at: [], "no approval was given"),
    "too few": (lambda at: said(ORDER, at, APPROVER), "1 of 2 approvals"),
    "one person twice": (
        lambda at: [*said(ORDER, at, APPROVER), *said(ORDER, later(at, -5), APPROVER)],
        "1 of 2 approvals",
    ),
    "a stranger": (lambda at: said(ORDER, at, APPROVER, EVE), "not an allowed signer"),
    "of another request": (
        lambda at: said(order_for(later(EPOCH, 5)), at, APPROVER, BOB),
        "for another request",
    ),
    "of another plan": (
        lambda at: said(ORDER, at, APPROVER, BOB, plan_digest="sha256:" + "1" * 64),
        "for another plan",
    ),
    "old": (lambda at: said(ORDER, later(at, -3601), APPROVER, BOB, expires_at=later(at, 60).isoformat()), "s old"),
    "expired": (
        lambda at: said(ORDER, later(at, -60), APPROVER, BOB, expires_at=later(at, -1).isoformat()),
        "expired at",
    ),
    "from the future": (lambda at: said(ORDER, later(at, 400), APPROVER, BOB), "in the future"),
    "a rejection": (lambda at: [*said(ORDER, at, APPROVER), *said(ORDER, at, BOB, verdict="reject")], "said reject"),
    "a standing one": (
        lambda at: [
            *said(ORDER, at, APPROVER),
            *said(
                ORDER, at, BOB, verdict="standing", dispatch_id=None, request_digest=None, service="pg",
                decision_types=["failover"], occasions=["unplanned"],
            ),
        ],
        "said standing",
    ),
    "zero bytes": (lambda at: [*said(ORDER, at, APPROVER), Paper("bob.json", b"")], "bob.json: empty"),
    "not JSON": (lambda at: [*said(ORDER, at, APPROVER), Paper("bob.json", b"yes")], "bob.json: line 1"),
    "torn": (lambda at: [Paper("a.json", said(ORDER, at, APPROVER)[0].data[:-9])], "a.json"),
    "edited": (
        lambda at: [
            *said(ORDER, at, APPROVER),
            Paper("b.json", said(ORDER, at, BOB, note="yes")[0].data.replace(b'"yes"', b'"yea"')),
        ],
        "not over these bytes",
    ),
}  # fmt: skip


@pytest.mark.req("APR-1", "APR-3", "INV-4")
@pytest.mark.fault(10)
@pytest.mark.parametrize("name", PAPERS)
def test_what_is_no_approval_of_these_bytes_runs_nothing(tmp_path: Path, name: str) -> None:
    """Too few, foreign, old, for something else or damaged: exit 13, the file or the person is named."""
    make, why = PAPERS[name]
    runner = _survivor(tmp_path)

    with pytest.raises(NotApprovedError, match=why):
        runner.run(make(AT))

    assert runner.started == []
    assert os.listdir(runner.folders.takeovers) == []


@pytest.mark.req("APR-1", "APR-3")
def test_who_begins_it_is_never_the_only_one_who_says_yes(tmp_path: Path) -> None:
    """Also where a runner takes one approval for enough, and whatever name he types."""
    runner = _survivor(tmp_path, config_more={"takeover_approvals": 1})

    with pytest.raises(NotApprovedError, match="cannot be the only approver"):
        runner.run(said(ORDER, AT, APPROVER), by=APPROVER)
    with pytest.raises(NotApprovedError, match=f"'{BOB}' is to have begun it and has signed none"):
        runner.run(said(ORDER, AT, APPROVER), by=BOB)
    assert runner.run(said(ORDER, AT, APPROVER, BOB), by=BOB).run_id


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("by", ["operator@example.org", EVE, APPROVER.upper(), "\x1b[2J"])
def test_a_name_that_is_only_typed_begins_nothing(tmp_path: Path, by: str) -> None:
    """`--by` is one of those who signed: the refusal says who did, and nothing begins."""
    runner = _survivor(tmp_path)

    with pytest.raises(NotApprovedError, match=f"signed none of the approvals; {APPROVER}, {BOB} did") as refused:
        runner.run(said(ORDER, AT, APPROVER, BOB), by=by)
    assert "--by is one of those who signed" in refused.value.hint
    assert (runner.started, os.listdir(runner.folders.takeovers)) == ([], [])


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("by", "reason", "named"), [("", "x", "--by"), ("a" * 257, "x", "--by"), (BOB, " ", "--reason")]
)
def test_who_and_why_are_said(tmp_path: Path, by: str, reason: str, named: str) -> None:
    """Left out or endless: a usage error that names the option, and nothing begins."""
    runner = _survivor(tmp_path)

    with pytest.raises(UsageError, match=named):
        runner.take().run(None, None, said(ORDER, AT, APPROVER, BOB), by=by, reason=reason)
    assert os.listdir(runner.folders.takeovers) == []


@pytest.mark.req("APR-3")
@pytest.mark.parametrize(
    ("more", "needed"), [({"takeover_approvals": 3}, 3), ({"approval": {"required": 4}}, 4)], ids=["takeover", "policy"]
)
def test_the_strictest_number_counts(tmp_path: Path, more: dict[str, Any], needed: int) -> None:
    """Of the order, of the runner's policy, and of what it asks for takeovers."""
    runner = _survivor(tmp_path, config_more=more)

    with pytest.raises(NotApprovedError, match=f"2 of {needed} approvals"):
        runner.run(said(ORDER, AT, APPROVER, BOB))


@pytest.mark.req("APR-1")
def test_a_revoked_key_is_looked_up_on_the_day(tmp_path: Path) -> None:
    """Who was struck from the list after he signed does not count."""
    runner = _survivor(tmp_path)
    papers = said(ORDER, AT, APPROVER, BOB)
    runner.people = (APPROVER,)

    with pytest.raises(NotApprovedError, match="not an allowed signer"):
        runner.run(papers)
    assert runner.started == []


@pytest.mark.req("GEN-1", "INV-3")
def test_an_order_of_an_older_generation_is_stale(tmp_path: Path) -> None:
    """The quorum has moved on, or this runner itself has seen a later one."""
    runner = _survivor(tmp_path, generation=GENERATION + 1)
    with pytest.raises(StaleGenerationError, match=f"STALE: the order is for generation {GENERATION}"):
        runner.run(said(ORDER, AT, APPROVER, BOB))

    (tmp_path / "seen").mkdir()
    seen = _survivor(tmp_path / "seen")
    seen.folders.raise_seen("pg", generation=GENERATION + 1)
    with pytest.raises(StaleGenerationError, match="seen by this runner"):
        seen.run(said(ORDER, AT, APPROVER, BOB))
    assert runner.started == seen.started == []


@pytest.mark.req("GEN-1", "INV-5")
def test_without_a_quorum_nothing_is_known_and_nothing_runs(tmp_path: Path) -> None:
    """Silence is no generation; the refusal says what to bring back."""
    runner = _survivor(tmp_path)
    runner.lease.silent = True

    with pytest.raises(StaleGenerationError, match="no quorum tells") as refused:
        runner.run(said(ORDER, AT, APPROVER, BOB))
    assert "etcd" in refused.value.hint
    assert runner.started == []


@pytest.mark.req("APR-4", "INV-2")
def test_a_signed_break_glass_names_the_loss_that_no_quorum_could_rule_out(tmp_path: Path) -> None:
    """Its words stand in what the runner signs; its role is asked for, and it is never one person's alone."""
    glass = {"verdict": "break-glass", "accepted_loss": "what onprem-db took since 03:00", "note": "both sites dark"}
    runner = _survivor(tmp_path, roles=frozenset({"approver", "break-glass"}))
    runner.lease.silent = True

    with pytest.raises(NotApprovedError, match="1 of 2 approvals"):
        runner.run(said(ORDER, AT, APPROVER, **glass))
    spec = runner.run([*said(ORDER, AT, APPROVER, **glass), *said(ORDER, AT, BOB)])

    assert spec.execution.takeover is not None
    assert spec.execution.takeover.generation_seen is None
    assert spec.execution.takeover.accepted_loss == glass["accepted_loss"]
    assert spec.execution.approval.mode == "break-glass"
    (tmp_path / "other").mkdir()
    other = _survivor(tmp_path / "other")
    with pytest.raises(NotApprovedError, match="no role 'break-glass'"):
        other.run(said(ORDER, AT, APPROVER, **glass))


@pytest.mark.req("EXE-3")
def test_beside_an_open_run_of_the_service_nothing_begins(tmp_path: Path) -> None:
    """What control had started here goes on, or is ended, first."""
    runner = _survivor(tmp_path)
    folder = runner.folders.run("run-20260131T120000Z-00000001")
    folder.mkdir(mode=0o700)
    body = {"run_id": folder.name, "service": "pg", "epoch": 1, "plan": {"blueprint_ref": "x"}}
    (folder / "spec.json").write_text(json.dumps({**body, "execution": {"plan_digest": "x"}}))

    (runner.folders.generations / "pg").write_text('{"generation": 7, "epoch": 1}')

    with pytest.raises(PrerequisiteError, match="is open here"):
        runner.run(said(ORDER, AT, APPROVER, BOB))
    assert runner.started == []


@pytest.mark.req("BP-4", "LOOP-1")
@pytest.mark.parametrize("boundary", ["checked", "intent", "started"])
def test_killed_at_any_moment_and_begun_again_it_is_one_run(tmp_path: Path, boundary: str) -> None:
    """Before the intent was written nothing was; after it the same run is started, whoever approves it then."""
    runner = _survivor(tmp_path, crash_at=boundary)
    with pytest.raises(Crashed):
        runner.run(said(ORDER, AT, APPROVER, BOB))
    runner.clock.advance(30)

    again = runner.run(said(ORDER, runner.clock.now(), APPROVER, BOB) if boundary == "checked" else [])

    assert {spec.run_id for spec in runner.started} == {again.run_id}
    assert len(os.listdir(runner.folders.takeovers)) == 1


def _three(tmp_path: Path, **more: Any) -> Survivor:
    return _survivor(tmp_path, people=(APPROVER, BOB, EVE), **more)


@pytest.mark.req("APR-1", "BP-4")
@pytest.mark.parametrize("boundary", ["intent", "started"])
def test_what_never_began_binds_nobody(tmp_path: Path, boundary: str) -> None:
    """Written down, and then nothing was started: other people's approvals count, and the first ones no more."""
    runner = _three(tmp_path, crash_at=boundary)
    with pytest.raises(Crashed):
        runner.run(said(ORDER, AT, APPROVER, BOB))
    (first,) = os.listdir(runner.folders.takeovers)

    spec = runner.run(said(ORDER, AT, BOB, EVE), by=EVE)

    assert {a.statement.approver for a in spec.approvals} == {BOB, EVE}
    assert runner.started[-1] == spec
    assert sorted(os.listdir(runner.folders.takeovers)) == [first, first.replace(".1.", ".2.")]
    with pytest.raises(NotApprovedError, match="1 of 2 approvals"):
        runner.run(said(ORDER, AT, APPROVER))


@pytest.mark.req("EXE-3", "BP-4")
@pytest.mark.parametrize("later_try", [False, True])
def test_what_has_begun_binds_whoever_approves_it_then(tmp_path: Path, later_try: bool) -> None:
    """A run lies there: it is gone on with, also when a further call had written down another one that never began."""
    runner = _three(tmp_path)
    spec = runner.run(said(ORDER, AT, APPROVER, BOB))
    if later_try:
        runner.run(said(ORDER, AT, BOB, EVE), by=EVE)
    runner.begun(spec)

    assert runner.run(said(ORDER, AT, BOB, EVE), by=EVE) == spec
    assert runner.run([]) == spec
    assert runner.take().standing()[0].run_id == spec.run_id


@pytest.mark.req("EXE-3")
@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.FAILED, Outcome.CANCELLED])
def test_a_run_that_ended_without_effect_may_be_tried_anew(tmp_path: Path, outcome: Outcome) -> None:
    """With approvals of its own: those of the run that ended are used up."""
    runner = _three(tmp_path)
    first = runner.run(said(ORDER, AT, APPROVER, BOB))
    runner.ended(first, outcome, 20)
    runner.clock.advance(5)

    with pytest.raises(NotApprovedError, match="no approval was given"):
        runner.run([])
    assert runner.run(said(ORDER, AT, BOB, EVE), by=BOB).run_id != first.run_id


@pytest.mark.req("EXE-3", "GEN-1")
@pytest.mark.parametrize(
    ("outcome", "raised"), [(Outcome.SUCCEEDED, 1), (Outcome.FAILED, 1), (Outcome.UNKNOWN, 0)], ids=str
)
def test_a_run_that_had_an_effect_is_the_orders_only_one(tmp_path: Path, outcome: Outcome, raised: int) -> None:
    """Done, failed after its promotion, or nobody knows: no further one is made of the order."""
    runner = _three(tmp_path)
    first = runner.run(said(ORDER, AT, APPROVER, BOB))
    runner.ended(first, outcome, 0, generation_after=GENERATION + raised)

    assert runner.run(said(ORDER, AT, BOB, EVE), by=EVE).run_id == first.run_id
    assert len(os.listdir(runner.folders.takeovers)) == 1


@pytest.mark.req("UX-1")
def test_a_damaged_file_of_one_order_is_named_and_hides_no_other(tmp_path: Path) -> None:
    """What an order was begun with cannot be read: that order is not run, and says why; the others are as they were."""
    other = order_for(later(EPOCH, 60), plan=plan_for("cloud-runner", "x"))
    runner = _survivor(tmp_path, ORDER, other)
    damaged = runner.folders.takeovers / f"{ORDER.order_id}.1.json"
    damaged.write_bytes(b'{"schema":')

    standing = {s.told["order_id"]: s for s in runner.take().standing()}
    fault = standing[ORDER.order_id].fault
    assert (str(damaged) in str(fault), standing[other.order_id].fault) == (True, None)
    with pytest.raises(RecordError, match=damaged.name):
        runner.run(said(ORDER, AT, APPROVER, BOB), order_id=ORDER.order_id)
    assert runner.started == []
    assert runner.run(said(other, AT, APPROVER, BOB), order_id=other.order_id).request == other.request


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("name", ["result.json", "takeover"])
def test_what_cannot_be_read_of_an_order_is_its_own_fault(tmp_path: Path, name: str) -> None:
    """A result that is damaged, a link in a file's place: told with the name, no crash of the whole list."""
    runner = _survivor(tmp_path)
    spec = runner.run(said(ORDER, AT, APPROVER, BOB))
    if name == "result.json":
        runner.ended(spec, Outcome.FAILED, 20)
        path = runner.folders.run(spec.run_id) / name
        path.write_bytes(b"{}")
    else:
        path = runner.folders.takeovers / f"{ORDER.order_id}.1.json"
        path.unlink()
        path.symlink_to("/nonexistent")

    (standing,) = runner.take().standing()
    assert str(path) in str(standing.fault)


@pytest.mark.req("INV-8", "APR-1")
@pytest.mark.parametrize("name", ["signers", "approvers", "keys", "runner.json"])
def test_trust_that_everybody_may_change_proves_nothing(tmp_path: Path, name: str) -> None:
    """Who may write the files that say whose approval counts could approve anything."""
    config = Survivor(tmp_path).config
    refuse_own_trust(config)
    (tmp_path / name).chmod(0o666)

    with pytest.raises(ConfigError, match=name):
        refuse_own_trust(config)


def test_the_newest_order_is_meant(tmp_path: Path) -> None:
    """The newest one of a service is what a takeover runs."""
    held = [order_for(later(EPOCH, n), mode=Mode(generation=n, primary=SOURCE)) for n in (6, 7, 5)]
    runner = _survivor(tmp_path, *held, generation=7)

    assert [s.told["generation"] for s in runner.take().standing()] == [5, 6, 7]
    assert runner.run(said(held[1], AT, APPROVER, BOB)).generation == 7


def test_a_damaged_order_is_named_and_hides_no_other(tmp_path: Path) -> None:
    """It is shown with its fault, and the sound one beside it can be run."""
    runner = _survivor(tmp_path)
    (runner.folders.orders / "dispatch-20260131T120000Z-failover-00000000.json").write_bytes(b'{"schema":')

    assert [s.fault is None for s in runner.take().standing()] == [False, True]
    assert runner.run(said(ORDER, AT, APPROVER, BOB)).run_id


def _miswritten(runner: Survivor, order: StandbyOrder) -> None:
    """One character of a signature is another one."""
    value = json.loads(order.encoded())
    sig = value["request"]["signature"]["sig"]
    value["request"]["signature"]["sig"] = ("A" if sig[0] != "A" else "B") + sig[1:]
    (runner.folders.orders / f"{order.order_id}.json").write_bytes(canonical.encode(value))


@pytest.mark.req("INV-8", "UX-1")
def test_the_newest_order_is_damaged_and_the_sound_one_beside_it_is_run(tmp_path: Path) -> None:
    """Nobody has to find its id at night; asked for by its id the damaged one is refused, and the sound one named."""
    newest = order_for(later(EPOCH, 60))
    runner = _survivor(tmp_path, ORDER, newest)
    _miswritten(runner, newest)

    with pytest.raises(RecordError, match="not over these bytes") as refused:
        runner.run(said(newest, AT, APPROVER, BOB), order_id=newest.order_id)
    assert ORDER.order_id in refused.value.hint
    assert runner.started == []
    assert runner.take().chosen(None, None).told["order_id"] == ORDER.order_id
    assert runner.run(said(ORDER, AT, APPROVER, BOB)).request == ORDER.request


@pytest.mark.req("INV-8", "UX-1")
def test_where_no_order_is_sound_the_newest_one_says_why(tmp_path: Path) -> None:
    """All damaged: the refusal is the newest one's, and promises no other."""
    newest = order_for(later(EPOCH, 60))
    runner = _survivor(tmp_path, ORDER, newest)
    for order in (ORDER, newest):
        _miswritten(runner, order)

    assert runner.take().chosen(None, None).told["order_id"] == newest.order_id
    with pytest.raises(RecordError, match="not over these bytes") as refused:
        runner.run(said(newest, AT, APPROVER, BOB))
    assert "can be run once" not in refused.value.hint


@pytest.mark.req("INV-7")
@pytest.mark.parametrize("readable", [True, False])
def test_an_order_that_may_have_begun_is_not_passed_over(tmp_path: Path, readable: bool) -> None:
    """It could not be begun now, or nobody can tell whether it was: typed again, it is the one that is meant."""
    newest = order_for(later(EPOCH, 60))
    runner = _survivor(tmp_path, ORDER, newest)
    spec = runner.run(said(newest, AT, APPROVER, BOB))
    runner.begun(spec)
    _miswritten(runner, newest)
    if not readable:
        (runner.folders.takeovers / f"{newest.order_id}.1.json").write_bytes(b'{"schema":')

    meant = runner.take().chosen(None, None)
    assert (meant.told["order_id"], meant.run_id) == (newest.order_id, spec.run_id if readable else None)
    if readable:
        assert runner.run([]).run_id == spec.run_id
    else:
        with pytest.raises(RecordError, match=r"1\.json"):
            runner.run([])


@pytest.mark.req("INV-7")
@pytest.mark.parametrize("generation", [GENERATION, GENERATION + 1])
def test_beside_a_damaged_newest_one_the_same_words_find_the_run_again(tmp_path: Path, generation: int) -> None:
    """The run has promoted, so its order is stale: it is followed, unless the damaged one is for what came after it."""
    newest = order_for(later(EPOCH, 60), mode=Mode(generation=generation, primary=SOURCE))
    runner = _survivor(tmp_path, ORDER)
    spec = runner.run(said(ORDER, AT, APPROVER, BOB))
    runner.ended(spec, Outcome.SUCCEEDED, 0, generation_after=GENERATION + 1)
    runner.folders.raise_seen("pg", generation=GENERATION + 1)
    _miswritten(runner, newest)

    if generation == GENERATION:
        assert runner.run([]).run_id == spec.run_id
    else:
        with pytest.raises(RecordError, match="not over these bytes"):
            runner.run([])


@pytest.mark.req("APR-1")
def test_a_statement_signed_by_ssh_keygen_counts_like_an_approval(tmp_path: Path) -> None:
    """The printed bytes and the signature beside them; edited, or without it, they are refused."""
    runner = _survivor(tmp_path)
    statement = statement_for(ORDER, approver=BOB, now=AT, valid_s=600.0)
    data, signature = statement.signed_bytes(), SeedApprovals.sign(BOB, statement.signed_bytes()).encode()

    spec = runner.run([*said(ORDER, AT, APPROVER), Paper("bob.json", data + b"\n", signature)])

    assert BOB in spec.execution.approval.approved_by
    with pytest.raises(NotApprovedError, match="without its signature"):
        approval_of(Paper("bob.json", data))
    with pytest.raises(NotApprovedError, match="was edited"):
        approval_of(Paper("bob.json", json.dumps(json.loads(data), indent=1).encode(), signature))
    assert ApprovalStatement.read(data).expires_at == later(AT, 600)


def test_two_steps_make_two_plans() -> None:
    """The kit's plans differ where their steps do, else the refusals above would prove nothing."""
    assert plan_for().digest() != plan_for("cloud-runner", "x").digest()
    assert step("a") in plan_for().steps
