"""The pieces of a deployment: its checks, its record, its secrets, its one link, its refusals."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hyops.cli.runner_look import faults_of
from hyops.engine import safety
from hyops.engine.redact import Redactor
from hyops.errors import (
    HyopsError,
    NotApprovedError,
    PrerequisiteError,
    ProtocolError,
    RunnerUnreachableError,
    SecretsError,
    StaleGenerationError,
    UnsafePlanError,
    UsageError,
)
from hyops.model.access import PublicAccess
from hyops.model.approval import ApprovalPolicy
from hyops.model.module_state import state_path
from hyops.model.plan import Plan
from hyops.model.protocol import PROTOCOL_MAX, PROTOCOL_MIN
from hyops.model.refusal import Refusal
from hyops.model.runners import RunnerMap, RunnerPlace
from hyops.model.sealed import SEALED, Sealed
from hyops.model.secret import Secret
from hyops.model.vocabulary import ExecutionPlane, SecretOrigin
from hyops.ports.transport import ClockSeen, RunnerHello, RunnerSession, RunStatus
from hyops.secretsync.mapping import Row
from hyops.services import deploy_checks as checks
from hyops.services import deploy_record
from hyops.services.deploy_record import DeployRecord
from hyops.services.deploy_refusals import refused_by
from hyops.services.deploy_secrets import Source, SyncEnv
from hyops.services.held_link import HeldLink
from hyops.services.secrets import Secrets
from hyops.testing.clock import FakeClock
from hyops.testing.runs import noop_plan, plan_of, step
from hyops.testing.secrets import MemoryAuthority, MemorySecretCache

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
PLACE = RunnerPlace(site="cloud")


@dataclass
class Session:
    """A runner that answers with these."""

    hello_: RunnerHello | ProtocolError
    jobs: dict[str, RunStatus] = field(default_factory=dict)

    async def hello(self) -> RunnerHello:
        """Who it is, or why nothing may be asked of it."""
        if isinstance(self.hello_, ProtocolError):
            raise self.hello_
        return self.hello_

    async def status(self, run_id: str) -> RunStatus:
        """One run."""
        return self.jobs[run_id]


class Transport:
    """Counts connections; `away` makes them fail."""

    def __init__(self, session: Any, *, away: bool = False) -> None:
        self.session, self.away, self.opened, self.closed = session, away, 0, 0

    @asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[RunnerSession]:
        """One."""
        if self.away:
            raise RunnerUnreachableError("no answer")
        self.opened += 1
        try:
            yield self.session
        finally:
            self.closed += 1


def hello(**change: Any) -> RunnerHello:
    """A runner that is well."""
    body: dict[str, Any] = {
        "runner_ref": "cloud-runner",
        "site": "cloud",
        "hyops_version": "0",
        "protocol_min": PROTOCOL_MIN,
        "protocol_max": PROTOCOL_MAX,
        "disk_free_bytes": 10**10,
    }
    return RunnerHello(**{**body, **change})


def asked(transport: Transport, place: RunnerPlace = PLACE) -> dict[str, str]:
    """What the check of the runner says."""
    found, _ = asyncio.run(checks.runner(transport, "cloud-runner", place, noop_plan()))
    return {finding.check: finding.state for finding in found}


@pytest.mark.req("GATE-1", "RUN-2")
@pytest.mark.parametrize(
    ("session", "bad"),
    [
        (Session(hello()), set()),
        (Session(hello(site="onprem")), {"runner"}),
        (Session(ProtocolError("hyops 9 speaks 7 to 9")), {"runner"}),
        (Session(hello(clock=ClockSeen(3600.0, 0.01))), {"clock"}),
        (Session(hello(clock=ClockSeen(3.0, 0.01))), set()),
        (
            Session(hello(open_runs=("r1",)), {"r1": RunStatus("r1", "running", facts={"service": "pg"})}),
            {"free"},
        ),
        (Session(hello(open_runs=("r1",)), {"r1": RunStatus("r1", "running", facts={"service": "other"})}), set()),
    ],
)
def test_a_runner_must_stand_where_it_should_and_be_free(session: Session, bad: set[str]) -> None:
    """Another site, another protocol, an open run of the same service: each is named."""
    assert {name for name, state in asked(Transport(session)).items() if state == "bad"} == bad


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize(
    ("shown", "absent", "says"),
    [(None, False, "is unreachable"), ("its state says so", True, "does not stand: its state says so")],
)
def test_a_runner_that_is_away_is_a_refusal(shown: str | None, absent: bool, says: str) -> None:
    """Nothing was asked of it, so the code says that nothing changed; it is absent only where something shows it."""
    place = RunnerPlace(site="cloud", bootstrap=["make", "it"])
    found, _ = asyncio.run(
        checks.runner(Transport(None, away=True), "cloud-runner", place, noop_plan(), lambda asked: shown)
    )
    error = checks.refusal(found)
    assert isinstance(error, PrerequisiteError)
    assert says in error.message
    assert "make it" in error.hint
    assert found[0].absent is absent


@pytest.mark.req("GATE-1", "GATE-3")
@pytest.mark.parametrize("plane", [plane for plane in ExecutionPlane if plane is not ExecutionPlane.RUNNER_LOCAL])
def test_an_access_mode_that_only_the_runner_can_check_is_named_and_never_called_ok(plane: ExecutionPlane) -> None:
    """It is never taken for another one."""
    finding = checks.access(on(plane))
    assert (finding.state, str(plane) in finding.detail) == ("later", True)


@pytest.mark.req("ACC-1")
def test_a_public_target_without_an_occasion_is_refused_with_its_plan() -> None:
    """With the mend, before anybody looks at anything else; with an occasion it may be shown to an approver."""
    access = PublicAccess.of({"occasion": "drill", "source_ranges": ["198.51.100.7/32"], "expires_after_s": 900})
    with pytest.raises(UnsafePlanError, match=r"public-ephemeral is for a drill or a broken glass .*give the route"):
        safety.check(on(ExecutionPlane.PUBLIC_EPHEMERAL), {"native/noop"})
    safety.check(on(ExecutionPlane.PRIVATE_OVERLAY), {"native/noop"})

    opened = on(ExecutionPlane.PUBLIC_EPHEMERAL).model_copy(update={"access": access})
    safety.check(opened, {"native/noop"})
    assert opened.digest() != on(ExecutionPlane.PUBLIC_EPHEMERAL).digest()


@pytest.mark.req("ACC-1", "GATE-3")
@pytest.mark.parametrize("plane", [plane for plane in ExecutionPlane if plane is not ExecutionPlane.PUBLIC_EPHEMERAL])
def test_a_private_plane_opens_no_public_way(plane: ExecutionPlane) -> None:
    """A private plan that also says `access` is a contradiction."""
    access = PublicAccess.of({"occasion": "drill", "source_ranges": ["198.51.100.7/32"], "expires_after_s": 900})
    with pytest.raises(UnsafePlanError, match=f"the execution plane is {plane}"):
        safety.check(on(plane).model_copy(update={"access": access}), {"native/noop"})


def on(plane: ExecutionPlane) -> Plan:
    """A plan that does nothing, over this way."""
    return noop_plan().model_copy(update={"execution_plane": plane})


@pytest.mark.req("GATE-1", "APR-1")
@pytest.mark.parametrize(
    ("required", "people", "asker", "state"),
    [
        (1, ["ada"], "bob", "later"),
        (1, ["ada"], "ada", "bad"),
        (2, ["ada", "bob"], "eve", "later"),
        (2, ["ada", "bob"], "ada", "bad"),
        (1, [], "eve", "bad"),
    ],
)
def test_enough_people_besides_the_one_who_asks(required: int, people: list[str], asker: str, state: str) -> None:
    """Where they are too few, nobody needs to wait for them."""
    assert checks.approvers(ApprovalPolicy(required=required), lambda: people, asker, proved=False).state == state


@pytest.mark.req("GATE-1", "APR-1")
@pytest.mark.parametrize(
    ("proved", "people", "state", "needed"),
    [
        (False, ["ada"], "bad", "2 "),
        (False, ["ada", "bob"], "later", "2 "),
        (False, ["ada", "eve"], "bad", "2 "),
        (True, ["ada"], "later", "1 "),
        (True, ["eve"], "bad", "1 "),
    ],
)
def test_who_signs_nothing_needs_two_others(proved: bool, people: list[str], state: str, needed: str) -> None:
    """Where the policy wants to know who asks: found out before anybody is asked to approve."""
    policy = ApprovalPolicy(require_known_requester=True)

    found = checks.approvers(policy, lambda: people, "eve", proved=proved)
    assert (found.state, needed in found.detail) == (state, True)


@pytest.mark.req("GATE-1")
def test_all_that_is_missing_is_named_with_the_code_of_the_first() -> None:
    """One run of preflight is enough."""
    found = [
        checks.bad("a", NotApprovedError("one")),
        checks.Finding("b", "ok", "well"),
        checks.bad("c", SecretsError("two")),
    ]
    error = checks.refusal(found)
    assert isinstance(error, NotApprovedError)
    assert error.message == "a: one; c: two"
    assert checks.refusal([checks.Finding("b", "later", "x")]) is None


@pytest.mark.req("GATE-1")
def test_what_only_the_runner_can_see_is_never_called_ok() -> None:
    """A fence and a restore are said to come later."""
    plan = plan_of([step("f", module="native/fence"), step("p", module="native/postgresql-promote")])
    assert checks.fencing(plan).state == "later"
    assert checks.fencing(noop_plan()).state == "ok"


def test_one_link_serves_all_and_a_broken_one_is_replaced() -> None:
    """One connection however often it is asked for; after a lost link the next one is fresh, and all are closed."""
    transport = Transport(Session(hello()))

    async def body() -> None:
        async with HeldLink(transport) as link:
            for _ in range(3):
                async with link.connect("cloud-runner") as session:
                    await session.hello()
            assert (transport.opened, transport.closed) == (1, 0)
            with pytest.raises(RunnerUnreachableError):
                async with link.connect("cloud-runner"):
                    raise RunnerUnreachableError("cut")
            async with link.connect("cloud-runner"):
                assert (transport.opened, transport.closed) == (2, 1)

    asyncio.run(body())
    assert transport.closed == 2


def sealed(values: Any, public: str, *, env: str, runner_ref: str) -> Sealed:
    """Stands in for the seal."""
    return Sealed(
        env=env, runner_ref=runner_ref, key_id="sha256:" + "0" * 64, keys=sorted(values), sealed_at=AT, expires_at=AT
    )


def sync_env(cache: Secrets, **more: Any) -> SyncEnv:
    """For the key `A`."""
    words: dict[str, Any] = {"keys": ["A"], "shell": {}, "env": "lab", "clock": FakeClock(AT), "seals": sealed}
    return SyncEnv(cache=lambda: cache, **{**words, **more})


@pytest.mark.req("RUN-9", "RUN-8")
def test_the_cache_is_refreshed_first_as_a_phase_of_its_own() -> None:
    """The value is the authority's of now; what is recorded has names and times, and no value."""
    cache, authority = Secrets(MemorySecretCache(), FakeClock(AT)), MemoryAuthority()
    authority.values["a"] = "fresh-value"
    made = sync_env(cache, source=Source(authority, [Row("db", "A", "a")]))

    told = asyncio.run(made.refresh(dry_run=False))

    assert told is not None
    assert (told["phase"], told["added"], "elapsed_s" in told, "started_at" in told) == ("secrets", ["A"], True, True)
    assert "fresh-value" not in json.dumps(told)
    assert made.handed("cloud-runner", PLACE) == {"A": "fresh-value"}


@pytest.mark.req("RUN-9")
def test_a_preflight_asks_the_authority_and_writes_nothing() -> None:
    """The key counts as there, and the cache has it no more than before."""
    cache, authority = Secrets(MemorySecretCache(), FakeClock(AT)), MemoryAuthority()
    authority.values["a"] = "fresh-value"
    made = sync_env(cache, source=Source(authority, [Row("db", "A", "a")]))

    asyncio.run(made.refresh(dry_run=True))

    assert (list(made.values()), list(cache.cache().values())) == (["A"], [])


@pytest.mark.req("SEC-3")
def test_with_a_key_of_the_runner_nothing_plain_travels() -> None:
    """One box under one name."""
    cache = Secrets(MemorySecretCache(), FakeClock(AT))
    cache.put("A", Secret("value-1"))
    place = RunnerPlace(site="cloud", seal_key="A" * 43 + "=")
    handed = sync_env(cache).handed("cloud-runner", place)
    assert list(handed) == [SEALED]
    assert "value-1" not in handed[SEALED]


@pytest.mark.req("RUN-8")
def test_a_key_has_one_origin() -> None:
    """The operator's value is used for what was named for it, and never instead of the cache's by the way."""
    cache = Secrets(MemorySecretCache(), FakeClock(AT))
    cache.put("A", Secret("of the cache"))
    made = sync_env(cache, shell={"B": Secret("of the shell")})
    assert made.origins() == {"A": SecretOrigin.VAULT, "B": SecretOrigin.OPERATOR}
    assert made.handed("r", PLACE) == {"A": "of the cache", "B": "of the shell"}
    with pytest.raises(UsageError, match="A: both"):
        sync_env(cache, shell={"A": Secret("x")}).origins()


@pytest.mark.req("RUN-7", "SEC-2")
def test_the_record_is_named_after_its_run_and_has_no_secret_in_it(tmp_path: Path) -> None:
    """Request, result and log lie in one folder, cleaned; until there is a run it has the decision's name."""
    record = DeployRecord(tmp_path, "decision-1")
    record.begin({"a": 1})
    assert (tmp_path / "logs" / "runner" / "decision-1" / "dispatch.request.json").exists()
    record.redactor = Redactor({"A": "canary-99"})
    record.add(why="canary-99")
    record.named("run-1")
    record.line("it said canary-99")
    record.end({"reason": "canary-99"})
    folder = tmp_path / "logs" / "runner" / "run-1"
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(texts) == {"dispatch.request.json", "dispatch.result.json", "runner.log"}
    assert "canary" not in "".join(texts.values())
    assert [path.name for path in folder.parent.iterdir()] == ["run-1"]


@pytest.mark.req("RUN-7", "INV-7")
def test_two_commands_for_one_run_keep_a_record_each(tmp_path: Path) -> None:
    """The same decision in the same second, and the same run: neither writes into the other's folder."""
    base = tmp_path / "logs" / "runner"
    both = [DeployRecord(tmp_path, "decision-1") for _ in range(2)]
    for by, record in enumerate(both):
        record.begin({"by": by})
    for record in both:
        record.named("run-1")
        record.end({"ended": record.folder.name})
    assert sorted(path.name for path in base.iterdir()) == ["run-1", "run-1.2"]
    for by, record in enumerate(both):
        assert json.loads((record.folder / "dispatch.request.json").read_text()) == {"by": by}
        assert json.loads((record.folder / "dispatch.result.json").read_text()) == {"ended": record.folder.name}
        assert record.fault is None


@pytest.mark.req("RUN-7", "EVD-4", "UX-1")
@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fills_up_ends_what_was_not_asked_yet_and_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    """Before the request it is a refusal; then a run may be under way, so it is a gap that is told at its end."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(full, os.strerror(full))

    record = DeployRecord(tmp_path, "decision-1")
    record.begin({"a": 1})
    with monkeypatch.context() as broken:
        broken.setattr(deploy_record, "write_file", refuse)
        with pytest.raises(PrerequisiteError, match=os.strerror(full)):
            record.add(findings=[])
        assert record.fault is None
        record.requested(dispatch_id="dispatch-1")
        broken.setattr(deploy_record.os, "open", refuse)
        record.line("a line")
        record.named("run-1")
    record.end({"status": "succeeded"})
    assert record.fault is not None
    assert (record.fault.exit_code, os.strerror(full) in record.fault.message) == (41, True)
    assert json.loads((record.folder / "dispatch.result.json").read_text()) == {"status": "succeeded"}


@pytest.mark.req("RUN-7", "EVD-4")
def test_without_room_for_its_end_a_deployment_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room of the result is taken first, and given back for it."""
    record = DeployRecord(tmp_path, "decision-1")
    record.begin({"a": 1})
    room = record.folder / ".room"
    assert room.stat().st_blocks * 512 >= 64 * 1024
    record.end({"b": 2})
    assert not room.exists()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(deploy_record.os, "posix_fallocate", refuse)
    with pytest.raises(PrerequisiteError, match="No space left"):
        DeployRecord(tmp_path, "decision-2").begin({"a": 1})


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("stage", "reason", "error"),
    [
        ("approval", "rejected by ada: no", NotApprovedError),
        ("approval", "the request expired at x", NotApprovedError),
        ("execution", "stale: made for generation 1, the service is at 2", StaleGenerationError),
        ("execution", "expired: it was approved until x", NotApprovedError),
        ("dispatch", "no_route:failover", PrerequisiteError),
    ],
)
def test_a_stages_refusal_keeps_its_exit_code(stage: Any, reason: str, error: type[HyopsError]) -> None:
    """Who waits for it learns what to do next."""
    refusal = Refusal(
        refusal_id="refusal-1",
        timestamp_utc=AT,
        stage=stage,
        subject_kind="request",
        subject_id="dispatch-1",
        subject_digest="sha256:" + "0" * 64,
        reason=reason,
    )
    assert type(refused_by(refusal)) is error


@pytest.mark.req("ROOT-3")
@pytest.mark.parametrize("ref", ["", "../x", "a/../b", "/etc/passwd", "a#", "a#../b", "a#B", "A/b", "a b"])
def test_a_state_reference_that_leads_elsewhere_is_refused(ref: str) -> None:
    """It becomes a path, so nothing but the known form passes."""
    with pytest.raises(UsageError):
        state_path(ref)


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize("mapping", [{"gcp": "r"}, {"gcp/switch": "r"}, {"moon/failover": "r"}, {"gcp/failover": "x"}])
def test_a_mapping_names_known_targets_moves_and_runners(mapping: dict[str, str]) -> None:
    """A word that is none of them is refused when the file is read."""
    body = {
        "api_version": "hybridops/v1",
        "kind": "RunnerMap",
        "runners": {"r": {"site": "a"}},
        "onprem_sites": ["a"],
    }
    assert RunnerMap.of({**body, "mapping": {"gcp/failover": "r"}}).mapping == {"gcp/failover": "r"}
    with pytest.raises(HyopsError):
        RunnerMap.of({**body, "mapping": mapping})


@pytest.mark.req("RUN-5", "RUN-11")
def test_the_doctor_names_what_would_stop_a_run() -> None:
    """A full disk, a run that nobody runs, a lost memory of generations."""
    jobs = [
        RunStatus("r1", "interrupted"),
        RunStatus("r2", "finished", facts={"fault": "pg is gone"}),
        RunStatus("r3", "running"),
    ]
    assert faults_of(hello(clock=ClockSeen(2.0, 0.1)), [RunStatus("r3", "finished")]) == ([], [])
    faults, hints = faults_of(hello(disk_free_bytes=2**20, clock=ClockSeen(-90.0, 0.1)), jobs)
    assert (len(faults), len(hints)) == (4, 4)
    assert "its clock is 90.0 s behind this host's" in faults[0]
