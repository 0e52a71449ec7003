"""A bundle is complete or not there, and the numbers in it are never better than what was measured."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from hyops.errors import EvidenceError
from hyops.evidence import bundle as bundles
from hyops.evidence.assemble import Story, achieved, assemble, counted
from hyops.model.evidence import Loss
from hyops.model.vocabulary import Outcome
from hyops.testing import evidence as seeds

Write = Callable[..., Path]
NOW = seeds.START + timedelta(minutes=1)
SIGNER = seeds.STAGES["execution"]


@pytest.mark.req("EVD-2", "LOOP-1")
@pytest.mark.fault(12)
def test_assembling_twice_gives_the_first_bundle(story: Story, tmp_path: Path) -> None:
    """A second assembler, or one that was killed and came back, leaves the bundle that stands as it is."""
    first = assemble(story, directory=tmp_path, signer=SIGNER, now=NOW)
    before = bundles.load(first)
    second = assemble(story, directory=tmp_path, signer=SIGNER, now=NOW + timedelta(hours=1))

    assert second == first
    assert bundles.load(second) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", story.name]


@pytest.mark.req("EVD-2", "RUN-12")
@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022])
def test_the_group_may_read_a_bundle_and_nobody_may_change_it(story: Story, tmp_path: Path, umask: int) -> None:
    """Folders and files, whatever the umask; others get no more than it gives them."""
    before = os.umask(umask)
    try:
        bundle = assemble(story, directory=tmp_path, signer=SIGNER, now=NOW)
    finally:
        os.umask(before)

    for path in (bundle, *bundle.rglob("*")):
        wanted = 0o050 if path.is_dir() else 0o040
        assert path.stat().st_mode & 0o070 == wanted, path
        assert path.stat().st_mode & 0o003 == 0, path


@pytest.mark.req("EVD-2", "INV-7")
@pytest.mark.fault(13)
def test_what_a_killed_assembler_left_is_no_bundle_and_is_removed(story: Story, tmp_path: Path) -> None:
    """Half a bundle of an assembler that was killed does not count, and goes at the next one."""
    (tmp_path / ".partial-dead").mkdir()
    (tmp_path / ".partial-dead" / "evidence.jsonl").write_bytes(b"{")

    assemble(story, directory=tmp_path, signer=SIGNER, now=NOW)

    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", story.name]


@pytest.mark.req("EVD-4")
@pytest.mark.fault(32)
def test_a_full_disk_leaves_no_half_bundle(story: Story, tmp_path: Path) -> None:
    """When evidence cannot be written, nothing that looks like evidence remains and the caller is told."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(EvidenceError, match="cannot be written"):
            assemble(story, directory=tmp_path, signer=SIGNER, now=NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.req("EVD-2")
@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "A", "x\n"])
def test_an_attachment_cannot_choose_its_place(story: Story, tmp_path: Path, name: str) -> None:
    """Attachment names are plain; anything else is refused and nothing is written."""
    with pytest.raises(EvidenceError, match="no safe name"):
        assemble(replace(story, attachments={name: b"x"}), directory=tmp_path / "d", signer=SIGNER, now=NOW)

    assert not (tmp_path / "evil").exists()


@pytest.mark.req("EVD-1")
def test_recovery_time_runs_from_the_first_failed_signal(story: Story) -> None:
    """RTA starts at the earliest bad sample and ends when traffic was verified, hand-over time counted in full."""
    actuals = achieved(story)

    assert actuals.measured_from == "first-failed-signal"
    assert actuals.first_failed_at == seeds.START
    assert actuals.rta_s is not None
    assert actuals.rta_at_least_s is not None
    assert actuals.rta_at_least_s <= actuals.rta_s <= actuals.rta_at_least_s + 0.3
    assert actuals.rto == "met"


@pytest.mark.req("EVD-1")
@pytest.mark.parametrize(
    ("rto_s", "verdict"), [(100.0, "met"), (3.7, "unproven"), (1.0, "missed"), (None, "no-objective")]
)
def test_the_objective_is_met_only_when_the_upper_bound_meets_it(
    story: Story, rto_s: float | None, verdict: str
) -> None:
    """Between the two bounds nothing is proven, and the report says that."""
    assert story.inputs is not None
    policy = story.inputs.policy.model_copy(update={"rto_s": rto_s})

    assert achieved(replace(story, inputs=story.inputs.model_copy(update={"policy": policy}))).rto == verdict


@pytest.mark.req("EVD-1")
def test_a_skewed_runner_clock_changes_no_recovery_time(story: Story) -> None:
    """The runner's clock an hour off: RTA is the same, since no stamps of two hosts are subtracted."""
    assert story.run_return is not None
    off = timedelta(hours=1)
    result = story.run_return.result
    steps = [
        s.model_copy(update={"started_at": s.started_at + off, "ended_at": s.ended_at + off}) for s in result.steps
    ]
    skewed = result.model_copy(
        update={"steps": steps, "started_at": result.started_at + off, "ended_at": result.ended_at + off}
    )

    there = achieved(replace(story, run_return=replace(story.run_return, result=skewed)))

    assert there.rta_s == achieved(story).rta_s
    assert there.rta_at_least_s == achieved(story).rta_at_least_s


@pytest.mark.req("EVD-1")
def test_traffic_that_was_not_verified_has_no_recovery_time() -> None:
    """A switch that ended at its cutover has no RTA and proves no objective."""
    switch = seeds.failover(outcome=Outcome.FAILED)
    story = Story(
        decision=switch.decision,
        request=switch.request,
        plan=switch.plan,
        execution=switch.execution,
        attempt=switch.attempt,
        run_return=switch.run_return,
        outcome=switch.outcome,
        inputs=switch.inputs,
    )

    assert achieved(story).rta_s is None
    assert achieved(story).rto == "unproven"


@pytest.mark.req("EVD-1")
@pytest.mark.fault(25)
def test_the_loss_that_the_run_counted_is_taken(story: Story) -> None:
    """The loss is what a step of the run counted; lost rows without a time prove no RPO."""
    assert story.run_return is not None
    result = story.run_return.result
    at = next(number for number, step in enumerate(result.steps) if "loss" in step.outputs)
    told = {key: value for key, value in result.steps[at].outputs["loss"].items() if key != "rpa_s"}
    steps = list(result.steps)
    steps[at] = steps[at].model_copy(update={"outputs": {"loss": told}})
    alone = replace(story, run_return=replace(story.run_return, result=result.model_copy(update={"steps": steps})))
    loss = counted(alone)

    assert loss is not None
    assert (loss.acknowledged, loss.surviving, loss.lost, loss.how) == (18342, 18339, 3, "exact")
    assert achieved(story).rpo == "met"
    assert achieved(alone).rpo == "unproven"


@pytest.mark.req("EVD-1")
def test_a_count_that_does_not_add_up_is_no_count() -> None:
    """Exact means that lost is acknowledged minus surviving."""
    with pytest.raises(ValueError, match="acknowledged minus surviving"):
        Loss(acknowledged=10, surviving=8, lost=0, how="exact", source="x")
