"""Each guard of the runner is taken out; what it keeps must then break, or its tests prove nothing.

What guards by a call of its own is replaced there; what stands inside `admission` is dropped from its source, singly.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.errors import HyopsError, PrerequisiteError, StaleGenerationError
from hyops.model import canonical, ids, wire
from hyops.model.approval import ApprovalPolicy
from hyops.model.dispatch import ApprovalDemand, DispatchRequest
from hyops.model.execution import ApprovalSummary
from hyops.model.protocol import PROTOCOL_MAX
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, Level, Occasion, RequestStatus
from hyops.runner import admission, boot, folders, gc, launch, offer, reopen, serve
from hyops.runner.admission import Rules
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders, Seen
from hyops.testing.evidence import APPROVER
from hyops.testing.runs import approval_of, plan_of, reissued, spec_of, step
from mutants import Guard, guards_of, without
from unit.control import test_acting_for as acting
from unit.control import test_presence as presence
from unit.runner import test_admission as judged
from unit.runner import test_serve as served

SPEC: dict[str, Any] = served.SPEC
RUN, PG = str(SPEC["run_id"]), str(SPEC["service"])
EPOCH, GENERATION = int(SPEC["epoch"]), int(SPEC["generation"])
Patch = pytest.MonkeyPatch


class Door:
    """A runner whose jobs are never really started."""

    def __init__(self, folder: Path, patch: Patch) -> None:
        self.config: RunnerConfig = replace(served._config(folder), cancel_wait_s=0.2)
        self.folders = Folders(self.config.root, self.config.secrets_dir)
        self.folders.make()
        self.launched: list[str] = []
        patch.setattr(launch, "launch", lambda config, folders, run_id: self.launched.append(run_id))
        patch.setattr(serve.decided, "admitted", nothing)
        patch.setattr("hyops.runner.follow.wait_until", lambda *_: False)

    def ask(self, frame: bytes) -> dict[str, Any]:
        """One question, one answer."""
        (answer,) = served._ask(self.config, frame)
        return answer

    def verb(self, verb: str, **more: Any) -> dict[str, Any]:
        """One without a payload."""
        return self.ask(wire.encode({"protocol": PROTOCOL_MAX, "verb": verb, "run_id": RUN, **more}))

    def staged(self) -> Path:
        """The run is here, and its job has not begun."""
        return self.put(SPEC)

    def put(self, spec: dict[str, Any]) -> Path:
        """Any run's folder, and what a start remembers of its service."""
        self.folders.raise_seen(PG, epoch=EPOCH)
        folder = self.folders.run(spec["run_id"])
        folder.mkdir(mode=0o700)
        (folder / "spec.json").write_bytes(canonical.encode(spec))
        return folder


def nothing(*_: Any, **__: Any) -> None:
    """A guard that finds nothing."""


def refused(answer: dict[str, Any], error: str) -> None:
    """The answer is this refusal."""
    assert answer["ok"] is False, answer
    assert answer["error"]["error"] == error, answer


def old_epoch(door: Door) -> None:
    """A dispatcher that was replaced starts a new run."""
    door.folders.raise_seen(PG, epoch=EPOCH + 1)
    refused(door.ask(served._start(SPEC)), "StaleGenerationError")
    assert door.launched == []


def old_generation(door: Door) -> None:
    """A run for a generation that has passed here."""
    door.folders.raise_seen(PG, generation=GENERATION + 1)
    refused(door.ask(served._start(SPEC)), "StaleGenerationError")
    assert door.launched == []


def old_epoch_again(door: Door) -> None:
    """A dispatcher that was replaced starts a run that is here already."""
    door.staged()
    door.folders.raise_seen(PG, epoch=EPOCH + 1)
    refused(door.ask(served._start(SPEC)), "StaleGenerationError")
    assert door.launched == []


def of_service(name: str) -> dict[str, Any]:
    """A run of another service, with its own id."""
    body: dict[str, Any] = json.loads(json.dumps(SPEC))
    body["service"] = body["execution"]["service"] = name
    execution = {key: value for key, value in body["execution"].items() if key != "signature"}
    at = datetime.fromisoformat(execution["timestamp_utc"])
    return {**body, "run_id": ids.run(at, canonical.digest(execution))}


def one_too_many(door: Door) -> None:
    """Two runs may be open, and two are, whatever has become of their jobs; once one is over there is room again."""
    door.config = replace(door.config, runs_at_once=2)
    first, second, third = (of_service(f"svc{number}") for number in range(3))
    assert door.ask(served._start(first))["ok"]
    assert door.ask(served._start(second))["ok"]
    answer = door.ask(served._start(third))
    refused(answer, "RunnerBusyError")
    assert answer["error"]["exit_code"] == 12
    assert all(f"{body['run_id']} (staged)" in answer["error"]["message"] for body in (first, second))
    assert not door.folders.run(third["run_id"]).exists()
    assert door.ask(served._start(first))["started"] == "existing"  # it has its place
    (door.folders.run(first["run_id"]) / "result.json").write_text('{"outcome": "succeeded", "ended_at": "x"}')
    assert door.ask(served._start(third))["ok"]


def reopened_beside_all(door: Door) -> None:
    """A run that may go on after its end needs a place as well."""
    door.config = replace(door.config, runs_at_once=1)
    folder = door.staged()
    ended = {"outcome": "failed", "service": PG, "generation_before": 1, "generation_after": 2, "primary_after": "x"}
    (folder / "result.json").write_text(json.dumps({**ended, "ended_at": "x"}))
    assert door.ask(served._start(of_service("other")))["ok"]
    refused(door.verb("resume", epoch=EPOCH), "RunnerBusyError")
    assert not (folder / "reopen.json").exists()


def late_admission(door: Door) -> None:
    """A job that was staged by a dispatcher that was replaced since."""
    door.folders.raise_seen(PG, epoch=EPOCH + 1)
    with pytest.raises(StaleGenerationError):
        door.folders.take(PG, epoch=EPOCH, generation=GENERATION)


def unsigned_epoch(door: Door) -> None:
    """Any epoch, over a signature that nobody has looked at: it is staged, and shuts nobody out."""
    assert door.ask(served._start({**SPEC, "epoch": EPOCH + 7}))["ok"]
    assert door.folders.seen(PG) == Seen(0, 0)


def leaping_start(door: Door) -> None:
    """A number after which hardly one is left."""
    refused(door.ask(served._start({**SPEC, "epoch": 2**53})), "PrerequisiteError")
    assert door.launched == []


def leaping_again(door: Door) -> None:
    """The same, with a run that is here."""
    door.staged()
    refused(door.ask(served._start({**SPEC, "epoch": 2**53})), "PrerequisiteError")
    assert door.launched == []


def leaping_admission(door: Door) -> None:
    """The same, judged by the job: the door may have been another version's."""
    with pytest.raises(PrerequisiteError, match="no executor starts so often"):
        door.folders.take(PG, epoch=2**53, generation=GENERATION)
    assert door.folders.seen(PG) == Seen(0, 0)


def old_resume(door: Door) -> None:
    """One that was replaced lets a run go on."""
    door.staged()
    door.folders.raise_seen(PG, epoch=EPOCH + 1)
    refused(door.verb("resume", epoch=EPOCH), "StaleGenerationError")
    assert door.launched == []


def old_cancel(door: Door) -> None:
    """One that was replaced cancels a run."""
    folder = door.staged()
    door.folders.raise_seen(PG, epoch=EPOCH + 1)
    refused(door.verb("cancel", epoch=EPOCH, reason="x"), "StaleGenerationError")
    assert not (folder / "cancel.json").exists()


def later_generation(door: Door) -> None:
    """A run that promoted goes on, although the service has another generation by now."""
    folder = door.staged()
    ended = {"outcome": "failed", "service": PG, "generation_before": 1, "generation_after": 2, "primary_after": "x"}
    (folder / "result.json").write_text(json.dumps(ended))
    door.folders.raise_seen(PG, generation=3)
    with pytest.raises(HyopsError, match="is at 3 by now"):
        reopen.ask(door.folders, RUN, by="ada", reason="x")
    assert not (folder / folders.REOPEN).exists()


def never_promoted(door: Door) -> None:
    """A run that failed before any promotion goes on."""
    folder = door.staged()
    ended = {"outcome": "failed", "service": PG, "generation_before": 1, "generation_after": 2}
    (folder / "result.json").write_text(json.dumps(ended))
    with pytest.raises(HyopsError, match="nothing to resume"):
        reopen.ask(door.folders, RUN, by="ada", reason="x")
    assert not (folder / folders.REOPEN).exists()


def another_plan(door: Door) -> None:
    """Other bytes under the id of a run that is here."""
    door.staged()
    refused(door.ask(served._start({**SPEC, "occasion": "planned"})), "UnsafePlanError")
    assert door.launched == []


def another_id(door: Door) -> None:
    """A second run of one execution."""
    refused(door.ask(served._start({**SPEC, "run_id": "run-2"})), "UnsafePlanError")
    assert door.launched == []


def once_reaped(door: Door) -> None:
    """A run that ended here and was removed comes again."""
    door.folders.tombstone(RUN).write_text("{}")
    refused(door.ask(served._start(SPEC)), "UnsafePlanError")
    assert door.launched == []


def beside_another(door: Door) -> None:
    """Another run of the service is open here."""
    door.put({**SPEC, "run_id": "run-other"})
    refused(door.ask(served._start(SPEC)), "PrerequisiteError")
    assert door.launched == []


def again_beside_another(door: Door) -> None:
    """Two runs of the service are open here, and one of them is started again."""
    door.staged()
    door.put({**SPEC, "run_id": "run-other"})
    refused(door.ask(served._start(SPEC)), "PrerequisiteError")
    assert door.launched == []


def resume_beside_another(door: Door) -> None:
    """Two runs of the service are open here, and one of them is to go on."""
    door.staged()
    door.put({**SPEC, "run_id": "run-other"})
    refused(door.verb("resume", epoch=EPOCH), "PrerequisiteError")
    assert door.launched == []


def boot_beside_another(door: Door) -> None:
    """Two runs of the service are open here when the host comes up."""
    door.staged()
    door.put({**SPEC, "run_id": "run-other"})
    assert boot.resume_all(door.config) == door.launched == []


def beside_closed_off(door: Door) -> None:
    """A run may lie in a folder that was opened to others."""
    door.put({**SPEC, "run_id": "run-other"}).chmod(0o750)
    refused(door.ask(served._start(SPEC)), "PrerequisiteError")
    assert door.launched == []


def begun_anew(door: Door) -> None:
    """The generation is lost, and the only run that knows of it lies in a folder that was opened to others."""
    door.put({**SPEC, "run_id": "run-other"}).chmod(0o750)
    (door.folders.generations / PG).unlink()
    with pytest.raises(HyopsError, match="cannot all be read"):
        door.folders.seen(PG)


def path_as_id(door: Door) -> None:
    """A run id that leads out of the folder of runs."""
    (door.config.root / "spec.json").write_bytes(canonical.encode(SPEC))
    refused(door.verb("cancel", run_id="..", epoch=EPOCH, reason="x"), "RecordError")
    assert not (door.config.root / "cancel.json").exists()


def planted(door: Door) -> None:
    """Somebody put a link where the run's folder belongs."""
    victim = door.config.root.parent / "victim"
    victim.mkdir(mode=0o700)
    (door.config.root / "runs" / RUN).symlink_to(victim)
    refused(door.ask(served._start(SPEC)), "ConfigError")
    assert os.listdir(victim) == []


REAL_OLD, REAL_SEEN, REAL_BESIDE = Folders.refuse_old, Folders.seen, serve.telling.refuse_beside_open


def not_asked_in(site: str) -> Callable[[Patch], None]:
    """`refuse_old` is not called by one function; everybody else's call stands."""

    def skipping(self: Folders, service: str, **words: int) -> None:
        if sys._getframe(1).f_code.co_name != site:
            REAL_OLD(self, service, **words)

    return lambda patch: patch.setattr(Folders, "refuse_old", skipping)


def may_leap_in(site: str) -> Callable[[Patch], None]:
    """`refuse_leap` is not called by one function; everybody else's call stands."""
    real = Folders.refuse_leap

    def skipping(self: Folders, service: str, *, epoch: int) -> None:
        if sys._getframe(1).f_code.co_name != site:
            real(self, service, epoch=epoch)

    return lambda patch: patch.setattr(Folders, "refuse_leap", skipping)


def raises_at_the_door(patch: Patch) -> None:
    """The door takes a spec's numbers for true before its job has judged it."""
    real = serve.door.admit_cheaply

    def raising(config: RunnerConfig, found: Folders, spec: dict[str, Any]) -> None:
        real(config, found, spec)
        found.raise_seen_locked(spec["service"], epoch=spec["epoch"])

    patch.setattr(serve.door, "admit_cheaply", raising)


def beside_not_asked_in(site: str) -> Callable[[Patch], None]:
    """`refuse_beside_open` is not called by one function; everybody else's call stands."""

    def skipping(folders: Folders, service: str, *, but: str = "") -> None:
        if sys._getframe(1).f_code.co_name != site:
            REAL_BESIDE(folders, service, but=but)

    return lambda patch: patch.setattr(serve.telling, "refuse_beside_open", skipping)


def sees_nothing_in(site: str) -> Callable[[Patch], None]:
    """One function knows nothing of what was seen."""

    def seen(self: Folders, service: str) -> Seen:
        return Seen(0, 0) if sys._getframe(1).f_code.co_name == site else REAL_SEEN(self, service)

    return lambda patch: patch.setattr(Folders, "seen", seen)


def instead(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    """Put something else in a guard's place."""
    return lambda patch: patch.setattr(owner, name, value)


class Anything:
    """A pattern that everything fits."""

    @staticmethod
    def fullmatch(_: str) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True)
class Mutant:
    """A guard, how it is taken away, and the scenario that needs it."""

    guard: str
    scenario: Callable[[Door], None]
    remove: Callable[[Patch], None]


MUTANTS = [
    Mutant("epoch of a new run", old_epoch, not_asked_in("admit_cheaply")),
    Mutant("generation of a new run", old_generation, not_asked_in("admit_cheaply")),
    Mutant("so many at once", one_too_many, instead(serve.door, "refuse_busy", nothing)),
    Mutant("so many at once, reopened", reopened_beside_all, instead(serve.door, "refuse_busy", nothing)),
    Mutant("epoch of an admission", late_admission, not_asked_in("take")),
    Mutant("an epoch that nobody vouches for", unsigned_epoch, raises_at_the_door),
    Mutant("leap of a new run", leaping_start, may_leap_in("admit_cheaply")),
    Mutant("leap of a start again", leaping_again, may_leap_in("start")),
    Mutant("leap of an admission", leaping_admission, may_leap_in("take")),
    Mutant("epoch of a start again", old_epoch_again, not_asked_in("start")),
    Mutant("epoch of a resume", old_resume, not_asked_in("_resume")),
    Mutant("epoch of a cancel", old_cancel, not_asked_in("_cancel")),
    Mutant("generation of a reopening", later_generation, sees_nothing_in("ask")),
    Mutant("promoted before it goes on", never_promoted, instead(reopen, "_promoted", lambda _: True)),
    Mutant("the same run", another_plan, instead(offer, "same_run", nothing)),
    Mutant("the only run", another_id, instead(offer, "only_run", nothing)),
    Mutant("never again", once_reaped, instead(gc, "refuse_reaped", nothing)),
    Mutant("one at a time", beside_another, instead(serve.telling, "refuse_beside_open", nothing)),
    Mutant("one at a time, started again", again_beside_another, beside_not_asked_in("start")),
    Mutant("one at a time, resumed", resume_beside_another, beside_not_asked_in("_resume")),
    Mutant("one at a time, at boot", boot_beside_another, beside_not_asked_in("resume_all")),
    Mutant("a folder may hold a run", beside_closed_off, instead(folders, "is_folder", lambda _: False)),
    Mutant("a folder is a witness", begun_anew, instead(folders, "is_folder", lambda _: False)),
    Mutant("ids are names", path_as_id, instead(folders, "RUN_ID", Anything())),
    Mutant("folders are ours", planted, instead(folders, "check_ours", nothing)),
]


@pytest.mark.req("INV-3", "INV-4", "INV-8", "EXE-3", "GEN-1", "RUN-4")
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.guard for mutant in MUTANTS])
def test_the_door_needs_its_guard(mutant: Mutant, tmp_path: Path, monkeypatch: Patch) -> None:
    """With the guard the scenario holds; without it, it breaks."""
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    mutant.scenario(Door(tmp_path / "with", monkeypatch))
    mutant.remove(monkeypatch)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        mutant.scenario(Door(tmp_path / "without", monkeypatch))


Case = tuple[RunSpec, Rules, dict[str, Any]]


def at_two(spec: RunSpec, who: str) -> RunSpec:
    """One approval where the request, or the stage, says two."""
    request = spec.request.model_copy(update={"approvals": ApprovalDemand(required=2 if who == "request" else 1)})
    summary = spec.execution.approval.model_copy(update={"needed": 2 if who == "execution" else 1})
    return reissued(spec, request=request, approvals=[approval_of(request, judged.AT)], summary=summary)


def with_request(spec: RunSpec, **changes: Any) -> RunSpec:
    """Another request, with an approval of its own."""
    request: DispatchRequest = spec.request.model_copy(update=changes)
    return reissued(spec, request=request, approvals=[approval_of(request, judged.AT)])


def standing(spec: RunSpec, **changes: Any) -> RunSpec:
    """Carried by a standing approval."""
    words: dict[str, Any] = {
        "verdict": "standing",
        "dispatch_id": None,
        "request_digest": None,
        "service": "pg",
        "decision_types": [DecisionType.FAILOVER],
        "occasions": [Occasion.UNPLANNED],
        **changes,
    }
    return judged._with_approval(spec, **words)


@functools.cache
def cases() -> dict[str, Case]:
    """What the runner must not admit: every case needs one guard at least."""
    spec, rules = judged._spec(), judged.RULES
    long = replace(rules, policy=ApprovalPolicy(allow_standing=True, standing_max_s=60.0))
    stands = replace(rules, policy=ApprovalPolicy(allow_standing=True))
    waived = spec.execution.approval.model_copy(update={"required": False, "mode": "none", "approval_ids": []})
    free = spec.request.model_copy(update={"requires_approval": False, "status": RequestStatus.QUEUED})
    far = spec_of(plan_of([step("a")], inputs={"source": "x"}), at=judged.AT)
    found: dict[str, Case] = {
        name: (tamper(spec), rules, {}) for name, tamper, _, _ in judged.TAMPERED if name != "standing not taken"
    }
    found |= {
        "standing not taken": (standing(spec), rules, {}),
        "standing too long": (standing(spec), long, {}),
        "standing for another service": (standing(spec, service="mail"), stands, {}),
        "standing on a hand-written decision": (
            standing(with_request(spec, source_decision_signed=False)),
            stands,
            {},
        ),
        "standing on a recommendation": (standing(with_request(spec, level=Level.RECOMMEND)), stands, {}),
        "another run id": (spec.model_copy(update={"run_id": "run-2"}), rules, {}),
        "request expired": (with_request(spec, expires_at=judged.AT + timedelta(seconds=1)), rules, {}),
        "request denied": (with_request(spec, status=RequestStatus.DENIED), rules, {}),
        "decision expired": (decision_expired(spec), rules, {}),
        "generation passed": (spec, rules, {"seen": spec.generation + 1}),
        "in the failed site": (far, replace(rules, host_sites={"x": "cloud"}), {}),
        "site not known": (far, rules, {}),
        "waived": (reissued(spec, request=free, approvals=[], summary=waived), rules, {}),
        "not acknowledged": (judged._with_approval(judged._spec(warnings=["w"]), acknowledged_warnings=[]), rules, {}),
        "two asked for by the request": (at_two(spec, "request"), rules, {}),
        "two counted by the stage": (at_two(spec, "execution"), rules, {}),
        "the requester alone": (with_request(spec, requester=APPROVER), rules, {}),
    }
    found["a warning that no marker names"] = unnamed_warning(spec)
    found |= {f"acting for another: {name}": case for name, case in delegated()}
    return found | {f"not seen at the key: {name}": case for name, case in not_seen()}


def unnamed_warning(spec: RunSpec) -> Case:
    """A marker carries it, and says nothing of what there was to acknowledge."""
    said = {"mode": "marker", "approval_ids": ["m"], "approved_by": ["ada"]}
    request = spec.request.model_copy(update={"warnings": ["gcp_billing: bad"]})
    marked = reissued(spec, request=request, approvals=[], summary=spec.execution.approval.model_copy(update=said))
    return marked, replace(judged.RULES, policy=ApprovalPolicy(mode="marker")), {}


def delegated() -> Iterator[tuple[str, Case]]:
    """A yes for somebody who is away, that the delegation with it does not cover."""
    rules = Rules("cloud-runner", "cloud", acting.VERIFIER, acting.Signers(acting.KNOWN), acting.POLICY)
    good = acting.given()
    given = {
        name: (under, acting.grant(under, who, absent)) for name, (under, who, absent, _) in acting.REFUSED.items()
    }
    given |= {"named by nobody": (good, approval_of(acting.SPEC.request, acting.AT, approver="bob"))}
    for name, said in given.items():
        summary = ApprovalSummary(required=True, approval_ids=[one.approval_id for one in said], mode="signed")
        spec = reissued(acting.SPEC, request=acting.SPEC.request, approvals=said, summary=summary)
        yield name, (spec, rules, {"now": acting.SOON})


def not_seen() -> Iterator[tuple[str, Case]]:
    """The policy wants to see who says yes at a security key, and who is away as well."""
    rules = Rules("cloud-runner", "cloud", presence.VERIFIER, presence.Keys({"ada": None, "dan": presence.BOTH}))
    rules = replace(rules, policy=presence.EVERYTHING)
    under = presence.said(**presence.AWAY)
    for name, said in {
        "a key in a file": (presence.said(),),
        "who is away": (under, presence.said("dan", on_behalf_of="ada", delegation=under.approval_id)),
    }.items():
        summary = ApprovalSummary(required=True, approval_ids=[one.approval_id for one in said], mode="signed")
        spec = reissued(presence.SPEC, request=presence.SPEC.request, approvals=said, summary=summary)
        yield name, (spec, rules, {"now": presence.SOON})


def decision_expired(spec: RunSpec) -> RunSpec:
    """Only the decision's time is over."""
    decision = spec.decision.model_copy(update={"expires_at": judged.AT + timedelta(seconds=1)})
    spec = judged._resigned(spec.model_copy(update={"decision": decision}), "decision", "decision")
    return with_request(spec, source_decision_digest=spec.decision.digest())


def admits(module: Any, case: Case) -> bool:
    """Whether this version of the judge lets it run."""
    spec, rules, words = case
    try:
        module.admit(spec, rules, now=words.get("now", judged.SOON), generation_seen=words.get("seen", 0))
    except (HyopsError, AttributeError):  # a crash admits nothing either
        return False
    return True


GUARDS = list(guards_of(admission))


@pytest.mark.req("INV-3", "INV-4", "INV-5", "INV-6", "RUN-1", "APR-1")
def test_every_case_is_refused_and_the_good_one_is_not() -> None:
    """The control of what follows; and the source still has as many guards as were counted."""
    assert admits(admission, (judged._spec(), judged.RULES, {}))
    assert [name for name, case in cases().items() if admits(admission, case)] == []
    assert len(GUARDS) >= 20


@pytest.mark.req("INV-3", "INV-4", "INV-5", "INV-6", "RUN-1", "APR-1")
@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_without_any_one_guard_something_is_admitted(guard: Guard) -> None:
    """One `if ...: raise` is gone from the judge's source: one of the cases runs."""
    mutated = without(admission, guard)

    assert [name for name, case in cases().items() if admits(mutated, case)] != []


@pytest.mark.req("APR-3", "INV-6")
def test_without_the_requests_number_one_person_is_enough(monkeypatch: Patch) -> None:
    """Two asked for by the request alone: where nobody reads that, one carries."""
    case = cases()["two asked for by the request"]
    monkeypatch.setattr(DispatchRequest, "approvals_needed", 1)

    assert admits(admission, case)
