"""The whole switch over memory parts: what is proved, refused and lost."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hyops.errors import NotFencedError, NotVerifiedError, StaleGenerationError, TargetError
from hyops.fence.verbs import slot_name
from hyops.model.dsse import verify_record
from hyops.model.fence import DemotionReceipt, FenceReceipt
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.probe import WriteVerdict
from switch_pair import BOTH, Lying, Pair, Unreachable, run, switch


@pytest.mark.req("INV-1", "FEN-1", "DNS-3")
def test_a_planned_switchover_loses_no_row() -> None:
    """The old primary hands over, the new one has every row, and the old one follows it."""
    pair = Pair()
    for number in range(20):
        assert pair.write("onprem-db", f"row-{number}") is WriteVerdict.ACCEPTED

    results = run(switch(pair, pair.spec(planned=True)))

    assert pair.lost() == []
    assert results["fence"].outputs["receipt_class"] == "observed"
    assert results["promote"].outputs["generation_after"] == 2
    assert results["rejoin"].outputs["rejoined"] is True
    assert pair.writers() == ["cloud-db"]
    assert pair.hosts["onprem-db"].database.role() == "standby"
    assert pair.dns.records == {"dns:53": ("10.77.2.10", 2), "dns2:53": ("10.77.2.10", 2)}


@pytest.mark.req("INV-1", "FEN-1")
def test_a_lost_site_is_replaced_by_an_expired_lease() -> None:
    """Nobody reaches the old host: the lease proves it, with its margin and its limits in the receipt."""
    pair = Pair()
    pair.kill_site()

    results = run(switch(pair, pair.spec()))

    receipt = FenceReceipt.of(results["fence"].outputs["receipt"])
    assert receipt.receipt_class is ReceiptClass.LEASE_EXPIRED
    assert (receipt.margin_s, receipt.limits is not None) == (0.25, True)
    assert verify_record(receipt, pair.keys) == pair.keys.keyid
    assert pair.writers() == ["cloud-db"]
    assert results["rejoin"].changed is False
    assert "comes up fenced" in str(results["rejoin"].note)


@pytest.mark.req("INV-1")
@pytest.mark.fault(23)
def test_nothing_is_promoted_before_the_old_lease_has_run_out() -> None:
    """From raising the generation to the receipt, the old primary's deadline and the margin have passed."""
    pair = Pair()
    deadline = pair.hosts["onprem-db"].agent.grant.deadline  # type: ignore[union-attr]
    pair.kill_site()

    run(switch(pair, pair.spec(), until="fence"))

    assert pair.clock.monotonic() >= deadline + 0.25
    assert pair.writers() == []


@pytest.mark.req("FEN-1", "INV-2")
@pytest.mark.fault(22)
def test_a_fence_that_did_nothing_is_found_out() -> None:
    """The command exits 0, the probe sees a write accepted: no promotion, whatever the lease says later."""
    pair = Pair()
    pair.agents["onprem-db"] = Lying(pair.hosts["onprem-db"].verbs)

    with pytest.raises(NotFencedError, match="still acknowledges writes") as caught:
        run(switch(pair, pair.spec()))

    assert caught.value.facts["generation_after"] == 2  # it was raised before the lie was found out, and stays so
    assert pair.hosts["cloud-db"].database.role() == "standby"


@pytest.mark.req("FEN-1", "INV-2", "INV-5")
@pytest.mark.fault(23)
def test_silence_is_no_proof() -> None:
    """An unreachable host without a lease that counts: refused, nothing promoted, the generation not raised."""
    pair = Pair(receipts=[ReceiptClass.OBSERVED])
    pair.kill_site()

    with pytest.raises(NotFencedError, match="nothing proves"):
        run(switch(pair, pair.spec()))

    assert run(pair.store.state("pg")).generation == 1
    assert pair.hosts["cloud-db"].database.role() == "standby"


@pytest.mark.req("FEN-1")
def test_a_host_that_is_fenced_but_not_seen_refusing_is_not_observed() -> None:
    """The agent answers, the probe's path is dead: unreachable proves nothing."""
    pair = Pair(receipts=[ReceiptClass.OBSERVED])
    pair.probe.hosts["10.77.1.10"].reachable = False

    with pytest.raises(NotFencedError, match="unreachable"):
        run(switch(pair, pair.spec()))


@pytest.mark.req("INV-1", "FEN-2")
def test_with_on_loss_stay_an_expired_lease_proves_nothing() -> None:
    """The class is off the table even where the policy names it."""
    stay = Pair().lease.model_copy(update={"on_loss": "stay"})
    pair = Pair(lease=stay)
    pair.kill_site()

    with pytest.raises(NotFencedError):
        run(switch(pair, pair.spec()))


@pytest.mark.req("INV-3", "GEN-1")
@pytest.mark.fault(29)
def test_a_second_run_on_the_same_generation_is_refused() -> None:
    """Two plans on one service: whoever raised the generation first goes on, the other stops before any effect."""
    pair = Pair()
    run(switch(pair, pair.spec(run_id="run-1"), until="fence"))

    with pytest.raises(StaleGenerationError):
        run(switch(pair, pair.spec(run_id="run-2")))

    assert run(pair.store.state("pg")).changed_by == "run-1"


@pytest.mark.req("BP-4")
@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("until", ["fence", "promote", "verify-target", "cutover", "verify-traffic", "rejoin"])
def test_a_switch_that_is_run_again_from_the_start_ends_the_same(until: str, planned: bool) -> None:
    """Killed after any step and repeated from the first, the same run finds its own work done."""
    pair = Pair()
    assert pair.write("onprem-db", "row") is WriteVerdict.ACCEPTED
    run(switch(pair, pair.spec(planned=planned), until=until))
    if until == "rejoin":  # the old primary follows already: nothing is left to repeat but the step itself
        assert pair.writers() == ["cloud-db"]
        return

    run(switch(pair, pair.spec(planned=planned)))

    assert pair.writers() == ["cloud-db"]
    assert run(pair.store.state("pg")).generation == 2
    assert pair.lost() == []


@pytest.mark.req("GEN-1")
def test_failback_is_the_same_switch_the_other_way() -> None:
    """There and back again with the same drivers, without a lost row."""
    pair = Pair()
    run(switch(pair, pair.spec(planned=True)))
    assert pair.write("cloud-db", "on the other side") is WriteVerdict.ACCEPTED
    pair.hosts["onprem-db"].database.stream()

    back = pair.inputs(source="cloud-db", target="onprem-db")
    run(switch(pair, pair.spec(planned=True, generation=2, run_id="run-2"), back))

    assert pair.writers() == ["onprem-db"]
    assert pair.lost() == []


@pytest.mark.req("FEN-2", "INV-1")
@pytest.mark.fault(28)
def test_the_old_primary_comes_back_fenced_and_is_rewound() -> None:
    """After the switch it wakes with rows nobody else has: closed, stopped, and a standby only when told to follow."""
    pair = Pair()
    pair.kill_site()
    run(switch(pair, pair.spec()))
    old = pair.hosts["onprem-db"]
    old.database.rows.append("never acknowledged")

    pair.frozen.clear()
    pair.probe.hosts[old.member.address].reachable = True
    assert pair.write("onprem-db", "too late") is WriteVerdict.REFUSED
    pair.restart("onprem-db")
    pair.tick(3.0)

    assert old.database.role() == "stopped"
    assert old.agent.state.needs_rewind is True
    assert pair.write("onprem-db", "still too late") is WriteVerdict.REFUSED
    status = run(old.verbs.follow(primary="cloud-db", generation=2, run_id="run-1"))
    assert (status.role, old.database.rewound) == ("standby", 1)
    assert "never acknowledged" not in old.database.rows


@pytest.mark.req("INV-1")
def test_a_planned_switch_is_taken_back_when_the_standby_does_not_get_everything() -> None:
    """The standby stopped streaming: the old primary serves again under its generation, nothing was promoted."""
    pair = Pair()
    pair.hosts["cloud-db"].database.connected = False
    assert pair.write("onprem-db", "only here") is WriteVerdict.ACCEPTED

    with pytest.raises(NotFencedError, match="serves again"):
        run(switch(pair, pair.spec(planned=True)))

    assert pair.writers() == ["onprem-db"]
    assert run(pair.store.state("pg")).generation == 1
    assert pair.lost() == []


@pytest.mark.req("DNS-2")
@pytest.mark.fault(27)
def test_a_failed_cutover_leaves_the_promotion_and_two_ways_on() -> None:
    """The authority is gone: promoted, not switched; after it is mended the same run completes."""
    pair = Pair()
    pair.kill_site()
    pair.dns.silent.add("dns:53")

    with pytest.raises(TargetError, match="promoted, not switched") as caught:
        run(switch(pair, pair.spec()))

    assert "(1)" in caught.value.hint
    assert "(2)" in caught.value.hint
    assert pair.writers() == ["cloud-db"]
    pair.dns.silent.clear()
    run(switch(pair, pair.spec()))
    assert pair.dns.records["dns:53"] == ("10.77.2.10", 2)


@pytest.mark.req("DNS-3")
@pytest.mark.fault(24)
def test_traffic_is_not_verified_while_the_old_address_takes_writes() -> None:
    """Somebody opened the old edge by hand: the run ends not verified, and says what to do."""
    pair = Pair()
    run(switch(pair, pair.spec(planned=True), until="cutover"))
    old = pair.hosts["onprem-db"]
    old.database.running, old.database.standby = True, False
    old.edge.grant(old.edge.arm(10.0))
    spec, words = pair.spec(planned=True), pair.inputs()
    names = ("source", "target", "members", "endpoint")
    context = pair.context(spec, "verify-traffic", {name: words[name] for name in names})

    with pytest.raises(NotVerifiedError, match="still acknowledges"):
        run(pair.drivers()["native/verify-traffic"].apply(context))


@pytest.mark.req("INV-2", "FEN-1")
def test_a_break_glass_receipt_names_the_accepted_loss() -> None:
    """Only with the class in the policy and a break-glass approval does an unproved fence go on."""
    from datetime import timedelta

    from hyops.model.approval import Approval, ApprovalStatement
    from hyops.testing.clock import EPOCH

    statement = ApprovalStatement(
        verdict="break-glass",
        approver="ops@example.org",
        signed_at=EPOCH,
        expires_at=EPOCH + timedelta(hours=1),
        dispatch_id="dispatch-1",
        request_digest="sha256:" + "0" * 64,
        accepted_loss="up to 5 s of writes",
        note="the site burns",
    )
    approval = Approval(approval_id="approval-1", statement=statement, ssh_signature="x")
    for receipts, approvals, passes in (
        ([ReceiptClass.OBSERVED, ReceiptClass.BREAK_GLASS], [approval], True),
        ([ReceiptClass.OBSERVED, ReceiptClass.BREAK_GLASS], [], False),
        ([ReceiptClass.OBSERVED], [approval], False),
    ):
        pair = Pair(receipts=receipts)
        pair.kill_site()
        pair.clock.advance(10)  # the lease store is not asked for proof here, but the target still needs its lease
        spec = pair.spec(approvals=approvals)
        if passes:
            results = run(switch(pair, spec, until="promote"))
            receipt = results["fence"].outputs["receipt"]
            assert receipt["receipt_class"] == "break-glass"
            assert "up to 5 s of writes" in receipt["observations"][0]["saw"]
        else:
            with pytest.raises(NotFencedError):
                run(switch(pair, spec))


@pytest.mark.req("GATE-1")
def test_preflight_says_what_would_stop_a_switch() -> None:
    """Wrong generation, silent quorum, a standby that does not stream: each is a sentence, and nothing is changed."""
    pair = Pair()
    words = pair.inputs()
    fence = {name: words[name] for name in ("source", "target", "members", "lease", "receipts")}
    driver = pair.drivers()["native/fence"]

    assert run(driver.preflight(pair.context(pair.spec(planned=True), "fence", fence))) == []
    assert "generation 1" in run(driver.preflight(pair.context(pair.spec(generation=5), "fence", fence)))[0]
    pair.hosts["cloud-db"].database.connected = False
    assert "streaming" in run(driver.preflight(pair.context(pair.spec(planned=True), "fence", fence)))[0]
    pair.agents["onprem-db"] = Unreachable()
    assert "both" in run(driver.preflight(pair.context(pair.spec(planned=True), "fence", fence)))[0]
    pair.store.silent = True
    assert "lease store" in run(driver.preflight(pair.context(pair.spec(), "fence", fence)))[0]
    assert pair.receipts == BOTH


@pytest.mark.req("INV-1", "INV-2", "GEN-1")
@pytest.mark.fault(27, 32)
def test_a_run_that_ended_between_fence_and_promotion_is_followed_by_another_one() -> None:
    """The generation is the target's and nobody serves: an unplanned run goes on from there, and no row is lost."""
    pair = Pair()
    pair.write("onprem-db", "row-1")
    run(switch(pair, pair.spec(planned=True), until="fence"))
    assert pair.writers() == []

    run(switch(pair, pair.spec(generation=2, run_id="run-2")))

    assert pair.writers() == ["cloud-db"]
    assert pair.lost() == []


@pytest.mark.req("GEN-1")
def test_a_planned_run_does_not_go_on_from_anothers_half() -> None:
    """Where nobody serves there is nobody to hand over: only an unplanned run may go on."""
    pair = Pair()
    run(switch(pair, pair.spec(planned=True), until="fence"))

    with pytest.raises(StaleGenerationError):
        run(switch(pair, pair.spec(planned=True, generation=2, run_id="run-2"), until="fence"))


@pytest.mark.req("INV-1", "INV-2")
def test_a_demotion_of_another_system_promotes_nobody() -> None:
    """Positions of two systems cannot be compared: refused before anything is remembered, leased or promoted."""
    pair = Pair()
    outputs = run(switch(pair, pair.spec(planned=True), until="fence"))["fence"].outputs
    demotion = DemotionReceipt.of(outputs["demotion"]).model_copy(update={"system_identifier": "7"})
    new = pair.hosts["cloud-db"]

    with pytest.raises(TargetError, match="not of one system"):
        run(
            new.verbs.promote(
                receipt=FenceReceipt.of(outputs["receipt"]), generation=2, run_id="run-1", demotion=demotion
            )
        )

    assert (new.database.role(), new.agent.grant, new.agent.state.promotion_run) == ("standby", None, None)


@pytest.mark.req("INV-1", "FEN-2")
def test_a_lease_that_is_given_up_while_it_is_renewed_is_not_taken_back() -> None:
    """The renewal's answer comes after the edge was closed and the lease given up: not kept, and nothing opens."""
    pair = Pair()
    agent, renew = pair.hosts["onprem-db"].agent, pair.store.renew

    async def given_up_meanwhile(*words: Any, guarded: bool) -> Any:
        grant = await renew(*words, guarded=guarded)
        agent.close_edge("fenced")
        await agent.give_up_lease()
        return grant

    pair.store.renew = given_up_meanwhile  # type: ignore[method-assign]
    run(agent.hold_lease())

    assert (agent.grant, agent.edge_open) == (None, False)
    assert run(pair.store.state("pg")).holder is None


@pytest.mark.req("FEN-1")
def test_a_slot_of_a_member_is_one_that_postgresql_takes() -> None:
    """However long the host's name; names that differ at the end alone have slots of their own, short ones as ever."""
    long = [slot_name("h" * 63 + which) for which in "12"]

    assert slot_name("Db-1.example.org") == "hyops_db_1_example_org"
    assert slot_name("h" * 57) == "hyops_" + "h" * 57
    assert len({*long}) == 2
    assert all(len(name) == 63 and re.fullmatch("[a-z0-9_]+", name) for name in long)
