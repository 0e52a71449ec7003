"""What a run brought home: taken once, merged or kept as a conflict; what is forged or unfit changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyops.adapters.store_files import FileRecordStore
from hyops.compose_state import returned_states, state_desk
from hyops.errors import PrerequisiteError, StaleGenerationError, UsageError
from hyops.testing.clock import FakeClock
from state_kit import OTHER_RUN, REF, RUN, Root, ended, net, outcome_with, state

OUTPUTS = {"cidr": "10.1.0.0/16", "gateway": "10.1.0.1", "log_lines": 7}


class Killed(BaseException):
    """The process died here."""


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """The root of the environment `lab`."""
    return Root(tmp_path / "lab")


@pytest.mark.req("RUN-6", "MOD-1", "ROOT-3")
def test_a_run_leaves_its_published_outputs(root: Root) -> None:
    """First and second run: the state is the next generation, only what is published stands in it."""
    change = root.one(ended(root.plan(), OUTPUTS, base=None))
    assert (change.what, change.generation) == ("applied", 1)
    now = root.now()
    assert now is not None
    assert (now.status, now.run_id, now.outputs) == ("ok", RUN, {"cidr": "10.1.0.0/16", "gateway": "10.1.0.1"})
    assert (root.path / str(now.evidence_dir)).is_dir()
    more = ended(root.plan(), {**OUTPUTS, "cidr": "10.2.0.0/16"}, base=1, run_id=OTHER_RUN)
    assert root.one(more).generation == 2
    again = ended(root.plan(), {**OUTPUTS, "cidr": "10.2.0.0/16"}, base=2, run_id="run-20260131T120000Z-00000003")
    assert root.one(again).what == "same"
    assert (
        root.one(ended(root.plan(), {}, base=2, outcome="failed", run_id="run-20260131T120000Z-00000004")).what
        == "applied"
    )
    assert (now := root.now()) is not None
    assert (now.status, now.outputs["cidr"], now.generation) == ("error", "10.2.0.0/16", 3)


@pytest.mark.req("ROOT-2", "RUN-6")
def test_the_executor_is_wired_to_its_root(tmp_path: Path) -> None:
    """The configured root's own environment is written, its owner alone can read it; without one nothing is taken."""
    kit, clock = Root(tmp_path / "lab"), FakeClock()
    assert returned_states(SimpleNamespace(runtime_root=None), kit.plans, clock) is None
    taker = returned_states(SimpleNamespace(runtime_root=str(kit.path)), kit.plans, clock)
    assert taker is not None
    outcome = ended(kit.plan(), OUTPUTS, base=None)
    assert taker.take(outcome) == taker.report(outcome) == kit.returns.take(outcome)
    assert taker.attachments(outcome).keys() == {"state-return.json"}
    kit.put(state(2, cidr="other"))
    assert kit.one(ended(kit.plan(), {}, base=2, outcome="unknown", run_id=OTHER_RUN)).what == "conflict"
    assert len(state_desk(kit.path).conflicts()) == 1
    assert not [path for path in (kit.path, *kit.path.rglob("*")) if path.stat().st_mode & 0o077]


@pytest.mark.req("RUN-6", "ROOT-5")
def test_collected_twice_is_taken_once(root: Root) -> None:
    """The same outcome again, also where its report was lost, and also after others have moved the state on."""
    plan = root.plan()
    outcome = ended(plan, OUTPUTS, base=None)
    first = root.take(outcome)
    assert root.take(outcome) == first
    root.put(state(2, cidr="10.9.0.0/16", gateway="10.9.0.1"))
    for path in (root.path / "logs").rglob("*.json"):
        path.unlink()
    files = root.files()
    assert root.take(outcome).changes == first.changes
    assert root.files() == files


@pytest.mark.req("RUN-6", "ROOT-5")
@pytest.mark.parametrize(
    "boundary",
    ["locked", *(f"{file}:{at}" for file in ("history", "current") for at in ("half", "written", "named", "durable")),
     "report"],
)  # fmt: skip
def test_a_crash_at_each_boundary_takes_it_once(root: Root, boundary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed anywhere between the collected result and its report: the next try ends with the same state and report."""

    def dies(name: str) -> None:
        if name == boundary:
            raise Killed

    root.put(state(1, cidr="old"))
    outcome = ended(root.plan(), OUTPUTS, base=1)
    create = FileRecordStore.create
    with monkeypatch.context() as patched:
        patched.setattr(FileRecordStore, "create", lambda *a, **k: dies("report") or create(*a, **k))
        with pytest.raises(Killed):
            Root(root.path, dies, plans=root.plans).take(outcome)
    assert root.one(outcome).model_dump() == root.one(outcome).model_dump()
    assert (root.one(outcome).what, root.one(outcome).generation) == ("applied", 2)
    assert [kept.state.generation for kept in root.states.history(REF)] == [1, 2]


@pytest.mark.req("RUN-6", "ROOT-5")
def test_two_runs_with_one_base(root: Root) -> None:
    """The second is merged where they changed different outputs, and kept as a conflict where the same one."""
    root.put(state(1, cidr="a", gateway="a"))
    plan = root.plan()
    assert root.one(ended(plan, {"cidr": "b", "gateway": "a"}, base=1)).what == "applied"
    merged = root.one(ended(plan, {"cidr": "a", "gateway": "b"}, base=1, run_id=OTHER_RUN))
    assert (merged.what, merged.generation) == ("merged", 3)
    files = root.files()
    third = ended(plan, {"cidr": "c", "gateway": "a"}, base=1, run_id="run-20260131T120000Z-00000003")
    change = root.one(third)
    assert (change.what, change.keys) == ("conflict", ["outputs.cidr"])
    assert root.files() == files
    assert root.returns.attachments(third)["state-return.json"].count(b"conflict") >= 1
    (root.path / "logs" / "runner" / third.run_id / f"state-{third.outcome_id}.json").unlink()
    assert root.one(third) == change  # the same conflict, not a second one
    assert len(root.desk.conflicts()) == 1


@pytest.mark.req("RUN-5", "RUN-6")
def test_a_run_that_went_on_after_its_end(root: Root) -> None:
    """Its second end builds on its own first one; the first, taken late, changes nothing any more."""
    root.put(state(1, cidr="a", gateway="a"))
    plan = root.plan()
    first = ended(plan, {}, base=1, outcome="failed", records=5)
    assert root.one(first).what == "applied"
    second = ended(plan, {"cidr": "b", "gateway": "a"}, base=1, records=9)
    assert root.one(second).what == "applied"
    for path in (root.path / "logs").rglob("*.json"):
        path.unlink()
    root.one(first)
    now = root.now()
    assert now is not None
    assert (now.status, now.generation, now.outputs["cidr"]) == ("ok", 3, "b")


@pytest.mark.req("RUN-5", "RUN-6", "ROOT-5")
def test_a_run_that_went_on_keeps_what_others_changed(root: Root) -> None:
    """What was merged beside its first end is not taken back by its second one, which knows nothing of it."""
    root.put(state(1, cidr="a", gateway="a"))
    plan = root.plan()
    root.put(state(2, cidr="a", gateway="other"))
    assert root.one(ended(plan, {"cidr": "b", "gateway": "a"}, base=1, records=5)).what == "merged"
    assert root.one(ended(plan, {"cidr": "c", "gateway": "a"}, base=1, records=9)).what == "applied"
    now = root.now()
    assert now is not None
    assert now.outputs == {"cidr": "c", "gateway": "other"}


@pytest.mark.req("RUN-6", "VOC-5")
def test_unknown_and_an_authority_that_is_behind(root: Root) -> None:
    """An `unknown` end leaves an `ok` alone, and a root that was put back to an older state takes nothing newer."""
    root.put(state(1, cidr="a"))
    assert root.one(ended(root.plan(), {}, base=1, outcome="unknown")).keys == ["status"]
    root.put(state(2, cidr="b"))
    plan = root.plan()
    (root.path / "state/modules/platform__net/history/instances/site-b/0000000000000002.json").unlink()
    (root.path / "state/modules/platform__net/instances/site-b.json").unlink()
    change = root.one(ended(plan, {"cidr": "c"}, base=2, run_id=OTHER_RUN))
    assert (change.what, change.keys) == ("conflict", ["generation"])
    assert root.now() == state(1, cidr="a")


@pytest.mark.req("RUN-6")
def test_an_authority_that_was_edited_takes_nothing(root: Root) -> None:
    """A file changed by hand is left, and what came home is kept beside it."""
    root.put(state(1, cidr="a"))
    plan = root.plan()
    place = root.path / "state/modules/platform__net/instances/site-b.json"
    place.write_text(place.read_text().replace('"a"', '"edited"'))
    files = root.files()
    change = root.one(ended(plan, {"cidr": "c"}, base=1))
    assert (change.what, change.keys) == ("conflict", ["authority"])
    assert root.files() == files


def told(change: dict[str, Any] | None, outcome: str = "succeeded", step_id: str = "net", **outputs: Any) -> Any:
    """One step as a hostile runner tells it."""
    at = "2026-01-31T12:00:00Z"
    body = {"step_id": step_id, "outcome": outcome, "started_at": at, "ended_at": at, "elapsed_s": 1.0}
    return {**body, "outputs": outputs, **({"state": change} if change is not None else {})}


GOOD = {"state_ref": REF, "base_generation": 2, "status": "ok", "published": ["cidr"]}


@pytest.mark.fault(18)
@pytest.mark.req("RUN-6", "INV-8")
@pytest.mark.parametrize(
    ("why", "step"),
    [
        ("keeps platform/net#site-b", told({**GOOD, "state_ref": "platform/net#site-a"}, cidr="evil")),
        ("keeps platform/net#site-b", told({**GOOD, "state_ref": "platform/net"}, cidr="evil")),
        ("keeps platform/net#site-b", told({**GOOD, "state_ref": "platform/../../x"}, cidr="evil")),
        ("keeps no state", told({**GOOD, "state_ref": "test/plain"}, step_id="plain", cidr="evil")),
        ("no such step", told(GOOD, step_id="other", cidr="evil")),
        ("does not publish tag", told({**GOOD, "published": ["cidr", "tag"]}, cidr="evil", tag="x")),
        ("no output", told({**GOOD, "published": ["gateway"]}, cidr="evil")),
        ("calls its state ok", told(GOOD, "failed", cidr="evil")),
        ("publishes nothing", told({**GOOD, "status": "error"}, "failed", cidr="evil")),
        ("began with 1; it was sent 2", told({**GOOD, "base_generation": 1}, cidr="evil")),
        ("began with 7; it was sent 2", told({**GOOD, "base_generation": 7}, cidr="evil")),
        ("began with None", told({k: v for k, v in GOOD.items() if k != "base_generation"}, cidr="evil")),
    ],
)
def test_a_forged_return_changes_nothing(root: Root, why: str, step: Any) -> None:
    """Another run's state, one the plan does not name, a generation that was not sent: all of the return is refused."""
    from hyops.testing.runs import step as plain

    for number in (1, 2):
        root.put(state(number, cidr=f"{number}"))
    dns = net("dns").model_copy(update={"module_ref": "platform/dns"})
    plan = root.plan(net(), dns, plain("plain", module="test/plain"))
    honest = told({"state_ref": "platform/dns#site-b", "status": "ok", "published": ["cidr"]}, step_id="dns", cidr="x")
    files = root.files()
    report = root.take(outcome_with(plan, [honest, step]))
    assert {change.what for change in report.changes} == {"refused"}
    assert why in str(report.changes[0].reason)
    assert root.files() == files
    assert root.desk.conflicts() == []


@pytest.mark.fault(18)
@pytest.mark.req("RUN-6", "INV-10")
@pytest.mark.parametrize(
    ("why", "value"),
    [
        ("a secret", "postgres://admin:hunter2-canary@db/x"),
        ("a secret", {"password": "hunter2-canary"}),
        ("a secret", {"deep": ["-----BEGIN PRIVATE KEY-----\nhunter2-canary\n-----END PRIVATE KEY-----"]}),
        ("a secret", "***"),
        ("not relative", "/etc/hunter2-canary"),
        ("not relative", "artifacts/../../hunter2-canary"),
        ("not relative", "fine\n/hunter2-canary"),
        ("not relative", ["~/hunter2-canary"]),
        ("not relative", {"file:///hunter2-canary": 1}),
        ("not relative", "C:\\hunter2-canary"),
        ("not relative", "https://fine.example\n/hunter2-canary"),
        ("control character", "a\x1b[2Jhunter2-canary"),
        ("bytes are over", "hunter2-canary" * 10_000),
    ],
)
def test_an_unfit_output_keeps_its_own_state_out(root: Root, why: str, value: Any) -> None:
    """Secrets, paths that are not relative, too much: that step's state stays, no word of the value is written."""
    root.put(state(1, cidr="a"))
    dns = net("dns").model_copy(update={"module_ref": "platform/dns"})
    plan = root.plan(net(), dns)
    bad = told({**GOOD, "base_generation": 1}, cidr=value)
    good = told({"state_ref": "platform/dns#site-b", "status": "ok", "published": ["cidr"]}, step_id="dns", cidr="x")
    report = root.take(outcome_with(plan, [bad, good]))
    assert [change.what for change in report.changes] == ["refused", "applied"]
    assert why in str(report.changes[0].reason)
    assert root.now() == state(1, cidr="a")
    assert "hunter2-canary" not in root.text()


@pytest.mark.parametrize(
    "fine", ["artifacts/net.json", "https://x.example/a/../b", "10.0.0.0/16", "line\nline", "a..b"]
)
def test_ordinary_values_are_no_paths(root: Root, fine: str) -> None:
    """Relative paths, addresses, names and texts of several lines are taken."""
    assert root.one(ended(root.plan(), {"cidr": fine}, base=None)).what == "applied"


@pytest.mark.fault(18)
@pytest.mark.req("RUN-6", "MOD-1")
def test_what_is_missing_foreign_or_unproved(root: Root) -> None:
    """A step that says nothing of its state is told; another environment's plan and an unproved result do nothing."""
    plan = root.plan()
    silent = outcome_with(plan, [told(None, cidr="x")])
    assert root.one(silent).reason == "the runner says nothing of it"
    cancelled = outcome_with(plan, [told(None, "cancelled")], run_id=OTHER_RUN)
    assert root.returns.take(cancelled) is None
    foreign = ended(root.plan(net(), env="prod"), OUTPUTS, base=None, run_id=OTHER_RUN)
    assert "this root is lab's" in str(root.one(foreign).reason)
    outcome = ended(plan, OUTPUTS, base=None, records=3)
    assert root.returns.take(outcome.model_copy(update={"journal_head": None})) is None
    root.plans.records.clear()
    with pytest.raises(PrerequisiteError, match="is gone"):
        root.returns.take(outcome)
    assert root.files() == {}


@pytest.fixture
def torn(root: Root) -> tuple[Root, str]:
    """A root with one conflict over `cidr`; the run alone changed `gateway`."""
    root.put(state(1, cidr="a", gateway="a"))
    plan = root.plan()
    root.put(state(2, cidr="b", gateway="a"))
    change = root.one(ended(plan, {"cidr": "c", "gateway": "c"}, base=1))
    assert change.conflict_id
    return root, change.conflict_id


@pytest.mark.req("RUN-6")
@pytest.mark.parametrize(("take", "cidr"), [("ours", "b"), ("theirs", "c")])
def test_a_conflict_is_mended(torn: tuple[Root, str], take: Any, cidr: str) -> None:
    """Only what clashes is decided by the side that is taken; doing it again is the same, the other way refused."""
    root, conflict_id = torn
    done = root.desk.resolve(conflict_id, take, by="ada")
    assert done.generation == 3
    now = root.now()
    assert now is not None
    assert now.outputs == {"cidr": cidr, "gateway": "c"}
    assert root.desk.resolve(conflict_id, take, by="bob") == done
    with pytest.raises(PrerequisiteError, match=f"ada took {take}"):
        root.desk.resolve(conflict_id, "ours" if take == "theirs" else "theirs", by="bob")
    assert root.desk.conflicts() == []
    assert [resolution.by for _, resolution in root.desk.conflicts(resolved=True) if resolution] == ["ada"]


@pytest.mark.req("RUN-6", "ROOT-5")
def test_a_resolution_is_compare_and_set_too(torn: tuple[Root, str]) -> None:
    """The authority moved on since: refused until the person names the generation that he looked at."""
    root, conflict_id = torn
    root.put(state(3, cidr="d", gateway="a"))
    files = root.files()
    with pytest.raises(StaleGenerationError, match="at generation 3 by now") as told_:
        root.desk.resolve(conflict_id, "theirs", by="ada")
    assert "--at-generation 3" in told_.value.hint
    assert root.files() == files
    assert root.desk.resolve(conflict_id, "theirs", by="ada", at_generation=3).generation == 4
    with pytest.raises(UsageError, match="no conflict"):
        root.desk.resolve("conflict-nothing", "ours", by="ada")


@pytest.mark.req("RUN-6")
def test_a_crash_before_the_resolution_is_written(torn: tuple[Root, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The state was written, its record was not: repeated, it writes no second generation."""
    root, conflict_id = torn

    def dies(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(FileRecordStore, "create", dies)
        with pytest.raises(Killed):
            root.desk.resolve(conflict_id, "theirs", by="ada")
    with pytest.raises(PrerequisiteError, match="theirs is being taken"):
        root.desk.resolve(conflict_id, "ours", by="ada")
    assert root.desk.resolve(conflict_id, "theirs", by="ada").generation == 3
    assert [kept.state.generation for kept in root.states.history(REF)] == [1, 2, 3]
