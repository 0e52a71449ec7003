"""`hyops approval`, `decision`, `status` and `schema` on real folders and real SSH keys, through the CLI itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from control_site import ControlSite, Run, run
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.model import canonical
from hyops.model.approval import Approval
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt
from hyops.model.plan import Plan
from hyops.ports.starts import Hindrance
from hyops.services.inbox import Refusals, slot_for
from hyops.testing.clock import FakeClock
from hyops.testing.runs import plan_of, step
from simulation.world import KINDS, World, policy

FOLDERS = {
    "decisions": "decision-home/state/records",
    "inputs": "decision-home/state/inputs",
    "plans": "dispatch-home/state/plans",
    "requests": "dispatch-home/state/requests",
}
__all__ = ["Run", "run"]


class Site(ControlSite):
    """The folders of a control host after a lost site: a request waits there, and ada may approve it."""

    def __init__(self, root: Path) -> None:
        protected = {"policy": policy(decision_max_age_s=86400.0, rto_s=30.0).body(), "initial_generation": 1}
        super().__init__(root, people={"ada": ["approver"]}, protected=protected)
        self.lose_the_site()

    def lose_the_site(self) -> None:
        """Simulate up to the request, and put its records on disk, signed by this site's keys."""
        world = World(service_policy=policy(decision_max_age_s=86400.0))
        world.clock = FakeClock(datetime.now(UTC))
        world.boot(0)
        world.watch(3)
        world.site_dies()
        world.watch(2)
        world.turn(0, "dispatch")
        for kind in KINDS:
            for name, data in world.disk[kind].records.items():
                if kind in FOLDERS:
                    self.store(kind).create(name, self.signed(kind, data))

    def signed(self, kind: str, data: bytes) -> bytes:
        """The same record under this site's key."""
        if kind == "decisions":
            return sign_record(Decision.read(data), self.stages["decision"]).encoded()
        if kind == "requests":
            return sign_record(DispatchRequest.read(data), self.stages["dispatch"]).encoded()
        return data

    def store(self, kind: str) -> FileRecordStore:
        """The records of one kind."""
        return FileRecordStore(self.root / FOLDERS[kind])

    def plan(self, fresh: Plan | None = None) -> str:
        """The digest of the plan that waits, or of a fresh one that the dispatcher has put beside it."""
        if fresh is None:
            (name,) = self.store("plans").ids()
            return f"sha256:{name}"
        self.store("plans").create(fresh.digest().removeprefix("sha256:"), canonical.encode(fresh.body()))
        return fresh.digest()

    def approvals(self) -> list[Approval]:
        """What was signed."""
        store = FileRecordStore(self.root / "approval-home/state/approvals")
        return [Approval.read(store.read(name)) for name in store.ids()]

    def files(self) -> tuple[Path, Path]:
        """The decision and its inputs."""
        (decided,) = (self.root / FOLDERS["decisions"]).glob("*.json")
        (inputs,) = (self.root / FOLDERS["inputs"]).glob("*.json")
        return decided, inputs


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A fresh one."""
    return Site(tmp_path)


@pytest.mark.req("APR-1", "UX-2")
def test_a_request_is_shown_and_granted(site: Site, run: Run) -> None:
    """What waits is listed; `show` prints digest, plan and steps; `grant` signs exactly that."""
    _, listed, _ = run("approval", "list", "--config", site.approval, "--json")
    (waiting,) = json.loads(listed)
    dispatch_id = waiting["request"]["dispatch_id"]
    _, shown, _ = run("approval", "show", dispatch_id, "--config", site.approval)
    code, said, _ = run(
        "approval", "grant", dispatch_id, "--config", site.approval, "--key", site.root / "ada", "--yes", "--json"
    )

    request = DispatchRequest.of(waiting["request"])
    (made,) = site.approvals()
    assert waiting["state"] == "waiting"
    assert request.digest() in shown
    assert "native/fence" in shown
    assert (code, json.loads(said)["approver"]) == (0, "ada")
    assert made.statement.request_digest == request.digest()
    assert json.loads(run("approval", "list", "--config", site.approval, "--json")[1])[0]["state"] == "ready"
    assert run("approval", "verify", "--config", site.approval)[0] == 0


@pytest.mark.req("APR-3")
def test_no_terminal_is_never_consent(site: Site, run: Run) -> None:
    """Without --yes and without a terminal: exit code 13, nothing written."""
    code, _, err = run("approval", "grant", "", "--config", site.approval, "--key", site.root / "ada")

    assert code == 13
    assert "never consent" in err
    assert site.approvals() == []


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_an_approval_that_would_be_refused_is_not_written(site: Site, run: Run) -> None:
    """Ada's key in Bob's name: exit code 13, nothing written."""
    key = ("--key", site.root / "ada")
    code, _, _ = run("approval", "grant", "", "--config", site.approval, *key, "--approver", "bob", "--yes")

    assert code == 13
    assert site.approvals() == []


@pytest.mark.req("APR-1")
def test_a_rejection_is_signed_too(site: Site, run: Run) -> None:
    """After it the request is refused."""
    run("approval", "reject", "", "--config", site.approval, "--key", site.root / "ada", "--note", "no", "--yes")
    _, listed, _ = run("approval", "list", "--config", site.approval, "--all", "--json")

    assert [w["state"] for w in json.loads(listed)] == ["refused"]


@pytest.mark.req("APR-1")
def test_a_standing_approval_names_its_bounds(site: Site, run: Run) -> None:
    """Plan, service, types and occasions, until a date."""
    plan = site.plan()
    words = ["approval", "standing", "--plan", plan, "--service", "pg", "--config", site.approval]
    code, _, err = run(*words, "--key", site.root / "ada", "--yes")

    (made,) = site.approvals()
    assert code == 0
    assert plan in err
    assert (made.statement.verdict, made.statement.decision_types, made.statement.occasions) == (
        "standing",
        ["failover"],
        ["unplanned"],
    )


@pytest.mark.req("APR-1")
def test_a_standing_approval_for_too_long_is_not_even_signed(site: Site, run: Run) -> None:
    """Longer than the policy's 30 days: refused with exit code 13 before the key is asked, and nothing is written."""
    words = ["approval", "standing", "--plan", site.plan(), "--service", "pg", "--config", site.approval]
    code, _, err = run(*words, "--key", site.root / "ada", "--yes", "--valid-for", 31 * 86400)

    assert code == 13
    assert "the policy allows 30.0" in err
    assert site.approvals() == []


@pytest.mark.req("APR-1", "INV-4", "UX-1")
@pytest.mark.parametrize(
    ("keeps", "says"),
    [
        ({"state_instance": "site-b", "publishes": ["cidr"]}, "step net keeps platform/net#site-b"),
        ({"publishes": ["cidr"]}, "step net keeps platform/net,"),
        ({"state_instance": "site-b"}, "step net keeps platform/net#site-b"),
    ],
)
def test_a_standing_approval_of_a_plan_that_keeps_state_is_refused_when_it_is_made(
    site: Site, run: Run, keeps: dict[str, Any], says: str
) -> None:
    """Its state is part of the plan, so it would be void at the second run: said now, by name, and not at 03:00."""
    plan = site.plan(plan_of([step("before"), step("net", module="platform/net", **keeps)]))
    words = ["approval", "standing", "--plan", plan, "--service", "pg", "--config", site.approval]
    code, _, err = run(*words, "--key", site.root / "ada", "--yes")

    assert (code, says in err, site.approvals()) == (13, True, [])


@pytest.mark.req("APR-1", "INV-5")
def test_a_standing_approval_of_a_plan_that_nobody_has_seen_is_refused(site: Site, run: Run) -> None:
    """A digest that was mistyped, or never asked for, cannot be looked at."""
    words = ["approval", "standing", "--plan", "sha256:" + "1" * 64, "--service", "pg", "--config", site.approval]
    code, _, err = run(*words, "--key", site.root / "ada", "--yes")

    assert (code, "missing or damaged" in err, site.approvals()) == (16, True, [])


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_verify_names_every_bad_approval(site: Site, run: Run) -> None:
    """An empty file and an edited one: named, exit code 13, with and without --json."""
    run("approval", "grant", "", "--config", site.approval, "--key", site.root / "ada", "--note", "nob", "--yes")
    folder = site.root / "approval-home/state/approvals"
    (path,) = folder.glob("*.json")
    path.write_bytes(path.read_bytes().replace(b'"nob"', b'"yes"'))
    (folder / "empty.json").write_bytes(b"")
    code, said, _ = run("approval", "verify", "--config", site.approval, "--json")

    assert code == 13
    assert [fault["fault"] is not None for fault in json.loads(said)] == [True, True]
    assert run("approval", "verify", "--config", site.approval)[0] == 13


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
def test_a_copy_under_a_name_of_its_own_is_named(site: Site, run: Run) -> None:
    """Its words and signature are good, and file and record agree about a name that is not theirs: exit code 13."""
    run("approval", "grant", "", "--config", site.approval, "--key", site.root / "ada", "--yes")
    (made,) = site.approvals()
    copy = made.model_copy(update={"approval_id": f"approval-20991231T235959Z-{made.approval_id[-8:]}"})
    folder = site.root / "approval-home/state/approvals"
    (folder / f"{copy.approval_id}.json").write_bytes(copy.encoded())
    code, said, _ = run("approval", "verify", "--config", site.approval, "--json")
    found = {one["approval_id"]: one["fault"] for one in json.loads(said)}

    assert (code, found[made.approval_id]) == (13, None)
    assert found[copy.approval_id].startswith(
        f"it is filed as {copy.approval_id}, and what was signed is {made.approval_id}"
    )


@pytest.mark.req("DEC-5")
def test_a_decision_replays_and_explains_itself(site: Site, run: Run) -> None:
    """From the two files alone."""
    decided, inputs = site.files()
    code, said, _ = run("decision", "replay", decided, "--json")
    _, explained, _ = run("decision", "explain", decided, "--inputs", inputs)

    assert (code, json.loads(said)["replayed"]) == (0, True)
    assert "control          lost" in explained
    assert "3 vantage points" not in explained
    assert "2 vantage points, confirmed for 0.8 s" in explained


@pytest.mark.req("DEC-5")
def test_a_changed_decision_does_not_replay(site: Site, run: Run) -> None:
    """One word of the rationale: exit code 40. Other inputs than those it names: exit code 11."""
    decided, inputs = site.files()
    original = decided.read_bytes()
    decided.write_bytes(original.replace(b"onprem-db lost by", b"onprem-db left by"))

    assert run("decision", "replay", decided)[0] == 40

    decided.write_bytes(original)
    inputs.write_bytes(inputs.read_bytes().replace(b'"quorum":2', b'"quorum":1'))

    assert run("decision", "replay", decided)[0] == 11


@pytest.mark.req("APR-3", "DEC-1")
def test_an_operator_asks_on_the_same_path(site: Site, run: Run) -> None:
    """A planned switch becomes a signed decision record in the same folder, which never waives approval."""
    words = ["decision", "request", "--service", "pg", "--occasion", "planned", "--by", "ada", "--json"]
    code, said, _ = run(*words, "--type", "cutover", "--config", site.decision)

    made = Decision.read(site.store("decisions").read(json.loads(said)["decision_id"]))
    assert code == 0
    assert (made.decision_type, made.occasion, made.requires_approval, made.requested_by) == (
        "failover",
        "planned",
        True,
        "ada",
    )
    assert made.signature is not None


@pytest.mark.req("DEC-5", "EVD-1")
def test_what_an_operator_asked_for_replays_and_explains_itself(site: Site, run: Run) -> None:
    """From its two files alone: who asked, from where, and which objectives the policy named."""
    _, said, _ = run(*ASK, "--occasion", "planned", "--config", site.decision)
    decided = site.root / FOLDERS["decisions"] / f"{json.loads(said)['decision_id']}.json"
    made = Decision.read(decided.read_bytes())
    inputs = site.root / FOLDERS["inputs"] / f"{str(made.inputs_digest).removeprefix('sha256:')}.json"
    code, replayed, _ = run("decision", "replay", decided, "--json")
    _, explained, _ = run("decision", "explain", decided, "--inputs", inputs)
    _, told, _ = run("decision", "explain", decided, "--json")

    assert (code, json.loads(replayed)["digest"]) == (0, made.digest())
    assert "asked for by ada, planned: no signal was judged" in explained
    assert "primary onprem-db, generation 1" in explained
    assert (json.loads(told)["votes"], json.loads(told)["objectives"]) == ([], {"rto_s": 30.0, "rpo_s": None})
    assert "objectives: RTO 30 s" in explained


@pytest.mark.req("DEC-5")
def test_a_changed_request_of_an_operator_does_not_replay(site: Site, run: Run) -> None:
    """Another word in the decision: exit code 40. Other inputs than those it names: exit code 11."""
    _, said, _ = run(*ASK, "--config", site.decision)
    decided = site.root / FOLDERS["decisions"] / f"{json.loads(said)['decision_id']}.json"
    original = decided.read_bytes()
    decided.write_bytes(original.replace(b"by an operator", b"by my operator"))

    assert run("decision", "replay", decided)[0] == 40

    decided.write_bytes(original)
    digest = str(Decision.read(original).inputs_digest).removeprefix("sha256:")
    inputs = site.root / FOLDERS["inputs"] / f"{digest}.json"
    inputs.write_bytes(inputs.read_bytes().replace(b'"rto_s":30.0', b'"rto_s":90.0'))

    assert run("decision", "replay", decided)[0] == 11


@pytest.fixture
def same_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a millisecond later, all in one second."""
    looks = (FakeClock().now() + timedelta(milliseconds=n) for n in range(1, 900))
    monkeypatch.setattr(SystemClock, "now", lambda _self: next(looks))


ASK = ["decision", "request", "--service", "pg", "--type", "failover", "--by", "ada", "--json"]


@pytest.mark.req("DEC-5", "UX-1")
@pytest.mark.usefixtures("same_second")
def test_asking_twice_in_a_second_is_asking_once(site: Site, run: Run) -> None:
    """The same words: exit code 0, the same decision, its bytes untouched. Other words: another decision."""
    code, said, _ = run(*ASK, "--config", site.decision)
    made = json.loads(said)["decision_id"]
    written = site.store("decisions").read(made)
    recorded = site.store("inputs").ids()
    again, said_again, _ = run(*ASK, "--config", site.decision)
    same = site.store("inputs").ids()
    other, said_other, _ = run(*ASK, "--rationale", "another", "--config", site.decision)

    assert (code, again, other) == (0, 0, 0)
    assert said_again == said
    assert same == recorded
    assert site.store("decisions").read(made) == written
    assert json.loads(said_other)["decision_id"] != made


@pytest.mark.req("DEC-5", "INV-4")
@pytest.mark.usefixtures("same_second")
@pytest.mark.parametrize("case", ["other-content", "other-stage", "unsigned"])
def test_another_decision_under_the_same_id_stands(site: Site, run: Run, case: str) -> None:
    """It is not what was asked for, or nobody proves it: refused, left as it is, and nobody is told to delete it."""
    made = json.loads(run(*ASK, "--config", site.decision)[1])["decision_id"]
    (path,) = (site.root / FOLDERS["decisions"]).glob(f"{made}.json")
    there = Decision.read(path.read_bytes())
    if case == "other-content":
        there = sign_record(there.model_copy(update={"runner_ref": "other-runner"}), site.stages["decision"])
    elif case == "other-stage":
        there = sign_record(there, site.stages["dispatch"])
    else:
        there = there.model_copy(update={"signature": None})
    path.write_bytes(there.encoded())
    code, _, err = run(*ASK, "--config", site.decision)

    assert code == 11
    assert "remove" not in err
    assert path.read_bytes() == there.encoded()


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(("words", "code"), [(["--type", "failback"], 2), (["--type", "nonsense"], 2)])
def test_a_move_that_leads_nowhere_is_a_usage_error(site: Site, run: Run, words: list[str], code: int) -> None:
    """The service is at home, so there is no way back; and a word that nobody knows."""
    before = site.store("decisions").ids()

    assert run("decision", "request", "--service", "pg", *words, "--config", site.decision)[0] == code
    assert site.store("decisions").ids() == before


@pytest.mark.req("UX-2")
def test_status_shows_what_waits(site: Site, run: Run) -> None:
    """Primary, generation and the waiting request, until it is closed; the same for programs."""
    _, text, _ = run("status", "--config", site.execution)
    _, said, _ = run("status", "--config", site.execution, "--json")

    assert "primary onprem-db, generation 1  settled" in text
    assert "WAITING" in text
    (waiting,) = json.loads(said)[0]["waiting"]

    digest = DispatchRequest.read(site.store("requests").read(waiting)).digest()
    closed = FileRecordStore(site.root / "approval-home/state/refusals")
    Refusals(closed, site.stages["dispatch"], "approval").record(
        slot_for("closed", digest),
        kind="request",
        subject=waiting,
        digest=digest,
        reason="rejected by ada",
        now=datetime.now(UTC),
    )
    assert json.loads(run("status", "--config", site.execution, "--json")[1])[0]["waiting"] == []


def under_way(site: Site, since_s: float) -> Path:
    """An attempt that has been open for so long; returns the folder of the executor's state."""
    home = site.root / "execution-home" / "state"
    attempt = Attempt(
        attempt_id="attempt-1",
        run_id="run-1",
        timestamp_utc=datetime.now(UTC) - timedelta(seconds=since_s),
        status="dispatching",
        execution_mode="dispatch",
        source_execution_id="execution-1",
        source_execution_digest=canonical.digest("1"),
        source_dispatch_id="dispatch-1",
        service="pg",
        generation=1,
        runner_ref="cloud-runner",
        plan_digest=canonical.digest("plan"),
    )
    signed = sign_record(attempt, site.stages["execution"])
    FileRecordStore(home / "attempts").create("attempt-1", signed.encoded())
    return home


@pytest.mark.req("EXE-1", "EVD-1")
@pytest.mark.parametrize(("since_s", "overdue"), [(3600.0, True), (0.0, False)])
def test_status_tells_a_run_that_takes_longer_than_it_may(site: Site, run: Run, since_s: float, overdue: bool) -> None:
    """Past the service's objective it is told with the command to look at it; it is not ended for that."""
    under_way(site, since_s)

    text = run("status", "--config", site.execution)[1]
    (said,) = json.loads(run("status", "--config", site.execution, "--json")[1])

    assert ("OVERDUE        run-1: 360" in text and "of 30 s; `hyops run show run-1`" in text) is overdue
    assert (said["open_run"]["overdue"], said["open_run"]["rto_s"]) == (overdue, 30.0)


@pytest.mark.req("UX-1", "UX-2", "EXE-1")
def test_status_says_why_an_open_run_does_not_go_on(site: Site, run: Run) -> None:
    """What the executor's last try found, with the mend; nothing once nothing is in its way."""
    home = under_way(site, since_s=0.0)
    starts = FileStarts(home / "starts")
    starts.hinder("attempt-1", Hindrance("2026-03-14T03:00:00Z", "DiskFullError", "cloud-runner: disk full", "gc"))

    text = run("status", "--config", site.execution)[1]
    (said,) = json.loads(run("status", "--config", site.execution, "--json")[1])

    told = "NOT GOING ON   2026-03-14T03:00:00Z: cloud-runner: disk full; it is tried again; next: gc"
    assert ("run open: attempt-1" in text, told in text) == (True, True)
    assert said["hindrance"]["error"] == "DiskFullError"
    starts.hinder("attempt-1", Hindrance("2026-03-14T03:00:00Z", "RunnerUnreachableError", "no route", "wait"))
    text = run("status", "--config", site.execution)[1]
    assert ("NOT REACHED    2026-03-14T03:00:00Z: no route" in text, "NOT GOING ON" in text) == (True, False)
    starts.hinder("attempt-1", None)
    assert "NOT GOING ON" not in run("status", "--config", site.execution)[1]


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    "words",
    [
        ["approval", "list"],
        ["decision", "request", "--service", "pg", "--type", "failover"],
        ["status"],
        ["run", "show", "run-1"],
        ["run", "reconcile", "run-1"],
        ["runner", "jobs"],
    ],
)
def test_a_missing_configuration_is_a_refusal(run: Run, tmp_path: Path, words: list[str]) -> None:
    """Exit code 11 from every command, with the file's name and what to do."""
    code, _, err = run(*words, "--config", tmp_path / "none.json")

    assert code == 11
    assert "none.json: No such file" in err
    assert "--config" in err


@pytest.mark.req("UX-1", "UX-3")
@pytest.mark.parametrize("text", ["", "# hyops\n", "root:x:0:0::/root:/bin/bash\n", "{}"])
def test_a_wrong_file_is_never_said_to_be_removed(site: Site, run: Run, tmp_path: Path, text: str) -> None:
    """Any other file as configuration or trusted keys: exit code 11, and nobody is told to delete it."""
    (tmp_path / "other").write_text(text)
    config = json.loads(site.execution.read_text())
    site.execution.write_text(json.dumps({**config, "trusted_keys": str(tmp_path / "other")}))
    for path in (tmp_path / "other", site.execution):
        code, _, err = run("status", "--config", path)

        assert code == 11
        assert "other: " in err
        assert "remove" not in err


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("name", ["/proc/x", "/dev/null/x"])
def test_schemas_go_only_where_files_can_be(run: Run, name: str) -> None:
    """A place that takes no folder: exit code 12 with its name, not a bug of hyops."""
    code, _, err = run("schema", "write", name)

    assert code == 12
    assert name in err
    assert "bug" not in err


@pytest.mark.req("UX-2")
def test_schemas_are_printed_and_written(run: Run, tmp_path: Path) -> None:
    """Every name that is listed has a schema; a wrong one gets the nearest word."""
    names = run("schema", "list")[1].split()
    run("schema", "write", tmp_path / "schemas")

    assert len(list((tmp_path / "schemas").iterdir())) == len(names)
    assert json.loads(run("schema", "show", "service-policy")[1])["properties"]["quorum"]["minimum"] == 1
    assert "service-policy" in run("schema", "show", "servce-policy")[2]


@pytest.mark.fault(30)
@pytest.mark.req("VOC-5", "INV-7", "UX-1")
def test_a_run_of_a_lost_runner_is_reconciled_by_a_signed_word(site: Site, run: Run) -> None:
    """No proof: exit code 40. No consent, no key, no loss named: refused. Signed: recorded, and status says whose."""
    folder = site.root / "execution-home/state"
    now = datetime.now(UTC)
    attempt = Attempt(
        attempt_id="attempt-1",
        run_id="run-1",
        timestamp_utc=now,
        status="dispatching",
        execution_mode="dispatch",
        source_execution_id="execution-1",
        source_execution_digest="sha256:" + "0" * 64,
        source_dispatch_id="dispatch-1",
        service="pg",
        generation=1,
        runner_ref="cloud-runner",
        plan_digest="sha256:" + "0" * 64,
    )
    signed = sign_record(attempt, site.stages["execution"])
    FileRecordStore(folder / "attempts").create("attempt-1", signed.encoded())
    words = ["run", "reconcile", "run-1", "--config", site.execution, "--approval-config", site.approval]
    told = ["--outcome", "failed", "--reason", "it burned", "--looked-at", "both databases"]
    key, lost = ["--key", site.root / "ada"], "--runner-lost"

    assert run(*words)[0] == 40
    assert run(*words, *told)[0] == 2
    assert run(*words, *told, *key, "--yes")[0] == 22
    assert run(*words, *told, *key, lost)[0] == 13
    assert run(*words, "--outcome", "succeeded", *key, lost, "--yes")[0] == 2
    assert not (folder / "outcomes").exists()

    code, said, _ = run(*words, *told, *key, lost, "--yes", "--json")
    (status,) = json.loads(run("status", "--config", site.execution, "--json")[1])

    assert code == 0
    assert json.loads(said)["reconciliation"]["statement"]["looked_at"] == ["both databases"]
    assert status["mode"].get("uncertain") is status["mode"].get("open_attempt") is None
    assert status["last_outcome"]["reason"].startswith("by the word of ada, not proved")
    assert run(*words, *told, *key, lost, "--yes")[0] == 12
