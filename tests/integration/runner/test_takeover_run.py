"""A takeover through the runner's real job, killed where it hurts; and control hosts that learn of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

from fault_size import FULL, SEED
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.runner_return import open_return
from hyops.adapters.runner_session import FramedSession
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.control.mode import mode_of
from hyops.engine import journal
from hyops.errors import (
    ConfigError,
    DeadlineError,
    HyopsError,
    NotApprovedError,
    StaleGenerationError,
    StoreLostError,
)
from hyops.evidence.assemble import Story, assemble
from hyops.evidence.chain import BadRecordError
from hyops.evidence.verify import verify_path
from hyops.model import canonical
from hyops.model.approval import ApprovalPolicy
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.observed import DecisionInputs
from hyops.model.policy import ServicePolicy
from hyops.model.refusal import Refusal
from hyops.model.run import RunSpec
from hyops.model.takeover import TakenOver
from hyops.model.vocabulary import Outcome
from hyops.ports.transport import RunReturn, RunStatus
from hyops.runner import orders
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import EPOCH_STEP_MAX, Folders
from hyops.runner.follow import follow
from hyops.runner.starting import start
from hyops.services.takeover import Parts, RunnerTakeover
from hyops.services.takeover_adopt import Adopted, Adopter, AdoptStores, Trust
from hyops.testing.evidence import APPROVER, STAGES, VERIFIER, SeedApprovals
from hyops.testing.runs import plan_of, spec_of, step
from hyops_lab.wiring import service
from local_runner import LocalLink, session
from takeover_kit import BOB, JUDGE, POLICY, KeptLease, order_for, said

pytestmark = [pytest.mark.req("INV-9"), pytest.mark.fault(30)]

STARTED = start
LEASE = {"endpoints": ["http://127.0.0.1:1"], "ttl_s": 2.0, "margin_s": 0.25, "on_loss": "self-fence"}
INPUTS: dict[str, object] = {"source": {"host": "onprem-db", "site": "onprem"}, "lease": LEASE}
REF = {"blueprint_ref": service.BLUEPRINT}
PLAN = plan_of([step("fence"), step("promote", "fence"), step("cutover", "promote")], inputs=INPUTS).model_copy(
    update=REF
)
STEPS = ["fence", "promote", "cutover"]
PROMOTED = {"promote": {"generation_after": 8, "primary_after": "cloud-db"}}
PEOPLE = SeedApprovals(APPROVER, BOB)
BOUNDARIES = 24  # of a job with three steps, from its opening to its closing; further ones end it after its end


@dataclass
class Loss:
    """One runner with an order on the day of the loss."""

    runner: Runner
    outputs: dict[str, Any] = field(default_factory=dict)
    crash_at: int | None = None

    def __post_init__(self) -> None:
        more = {} if self.crash_at is None else {"crash_at": self.crash_at}
        folder = self.runner.folder
        for name in ("keys", "signers", "approvers"):
            (folder / name).touch()
        self.runner.configure(
            options={"people": [BOB], "outputs": self.outputs, **more},
            trusted_keys=str(folder / "keys"), allowed_signers=str(folder / "signers"),
            approvers=str(folder / "approvers"),
        )  # fmt: skip
        self.config = RunnerConfig.load(self.runner.config)
        self.folders = Folders(self.config.root, self.config.secrets_dir)
        self.folders.make()
        self.lease = KeptLease(SystemClock())
        asyncio.run(self.lease.initialise("pg", 7, "onprem-db"))
        self.order = order_for(datetime.now(UTC) - timedelta(days=1), plan=PLAN)
        orders.keep(self.config, self.folders, self.order.encoded(), JUDGE)

    def run(self, *people: str, start: Any = STARTED) -> RunSpec:
        """`hyops takeover run`, in a process of its own as far as its memory goes."""
        parts = Parts(
            VERIFIER, PEOPLE, STAGES["runner:cloud-runner"], SystemClock(), lambda lease: self.lease,
            partial(STARTED, self.config, self.folders, secrets={}) if start is STARTED else start,
        )  # fmt: skip
        papers = said(self.order, datetime.now(UTC), *people)
        return RunnerTakeover(self.config, parts).run(None, None, papers, by=APPROVER, reason="both are gone")

    def ended(self, run_id: str) -> str:
        """Follow the job; the state that it was found in."""
        told: list[str] = []

        def emit(stream: str, offset: int, body: dict[str, Any]) -> None:
            told.extend([str(body["state"])] if stream == "end" else [])

        follow(self.folders, run_id, 0, emit, stop_fd=None, start_wait_s=30.0)
        return told[-1]

    def to_the_end(self) -> RunSpec:
        """Take over, and again as often as the job is killed."""
        spec = self.run(APPROVER, BOB)
        for _ in range(3):
            if self.ended(spec.run_id) == "finished":
                return spec
            assert self.run().run_id == spec.run_id
        raise AssertionError("it does not end")


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Runner]:
    """A runner that no sshd leads to."""
    from tests.integration.runner.conftest import Runner

    made = Runner(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loss]:
    """A runner that has taken over and promoted; whoever learns of it changes nothing there."""
    from tests.integration.runner.conftest import Runner

    made = Runner(tmp_path_factory.mktemp("lost"))
    try:
        loss = Loss(made, outputs=PROMOTED)
        loss.to_the_end()
        yield loss
    finally:
        made.end()


def _moments() -> list[int]:
    return list(range(1, BOUNDARIES + 1)) if FULL else random.Random(SEED).sample(range(1, BOUNDARIES + 1), 2)


@pytest.mark.req("BP-4", "RUN-5")
@pytest.mark.fault(13)
@pytest.mark.parametrize("crash_at", _moments())
def test_the_job_of_a_takeover_is_killed_and_makes_each_effect_once(quiet: Runner, crash_at: int) -> None:
    """kill -9 at a boundary of the job, and the same command again: one run, one effect per step."""
    loss = Loss(quiet, crash_at=crash_at)
    try:
        spec = loss.run(APPROVER, BOB)
    except HyopsError:  # killed before it had said whether it runs
        spec = loss.run()
    for _ in range(3):
        if loss.ended(spec.run_id) == "finished":
            break
        spec = loss.run()

    result = json.loads((loss.folders.run(spec.run_id) / "result.json").read_bytes())
    assert result["outcome"] == "succeeded"
    assert quiet.effects == STEPS
    assert loss.folders.run_ids() == [spec.run_id]


@pytest.mark.req("INV-8", "APR-1")
def test_the_job_itself_asks_whose_files_its_trust_is(quiet: Runner) -> None:
    """The lists were closed when the command looked, and are open to all when the job begins: it makes no effect."""
    loss = Loss(quiet)

    def start_once_open(spec: bytes) -> Any:
        loss.config.approvers.chmod(0o666)
        return start(loss.config, loss.folders, spec, secrets={})

    with pytest.raises(ConfigError, match="approvers: who runs jobs here may change it"):
        loss.run(APPROVER, BOB, start=start_once_open)
    assert quiet.effects == []
    loss.config.approvers.chmod(0o644)
    loss.to_the_end()
    assert quiet.effects == STEPS


def _begun_by(spec: RunSpec, by: str) -> RunSpec:
    """The same run, as its runner signs it when it asks nobody whether `by` signed."""
    said = spec.execution.takeover
    assert said is not None
    change = {"takeover": said.model_copy(update={"by": by})}
    execution = sign_record(spec.execution.model_copy(update=change), STAGES["runner:cloud-runner"])
    return spec.model_copy(update={"execution": execution, "run_id": execution.run_id()})


@pytest.mark.req("APR-1", "INV-8")
def test_the_job_itself_asks_whether_who_begins_it_has_signed(quiet: Runner) -> None:
    """A spec that lies here with a name that is only typed: refused by the job, and no effect."""
    loss = Loss(quiet)

    def start_anothers(spec: bytes) -> Any:
        typed = _begun_by(RunSpec.read(spec), "the one on duty")
        return start(loss.config, loss.folders, canonical.encode(typed.body()), secrets={})

    with pytest.raises(NotApprovedError, match="'the one on duty' is to have begun it and has signed none"):
        loss.run(APPROVER, BOB, start=start_anothers)
    assert quiet.effects == []


@pytest.mark.req("GEN-1", "INV-3")
def test_after_a_takeover_this_runner_refuses_what_control_had_planned_before(lost: Loss) -> None:
    """An executor that thaws with an approved run of the old generation gets nothing started."""

    async def thawed() -> None:
        link = LocalLink(lost.runner.config)
        try:
            await session(link).start(spec_of(plan_of([step("x")]), generation=7, epoch=9), {})
        finally:
            await link.drop()

    with pytest.raises(StaleGenerationError, match="generation 7"):
        asyncio.run(thawed())
    lost.order = order_for(datetime.now(UTC), plan=PLAN)
    orders.keep(lost.config, lost.folders, lost.order.encoded(), JUDGE)
    with pytest.raises(StaleGenerationError, match="seen by this runner"):
        lost.run(APPROVER, BOB)
    assert lost.runner.effects == STEPS


@dataclass
class Local:
    """`TakeoverTransport` to one runner, over pipes."""

    config: Path
    lie: Any = None

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str, look: object = None) -> AsyncIterator[Any]:
        """One link."""
        link = LocalLink(self.config)
        try:
            made = session(link)
            yield made if self.lie is None else self.lie(made)
        finally:
            await link.drop()


class Liar:
    """A session whose runner hands over another story."""

    def __init__(self, real: FramedSession, change: Any) -> None:
        self._real, self._change = real, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def taken(self, run_id: str) -> bytes:
        """The changed one."""
        return bytes(self._change(TakenOver.read(await self._real.taken(run_id))).encoded())

    async def jobs(self) -> list[RunStatus]:
        """As it is."""
        return await self._real.jobs()


class Crashed(BaseException):
    """The process was killed here."""


@dataclass
class Control:
    """A control host, as far as it learns of takeovers."""

    folder: Path
    config: Path
    lie: Any = None
    people: SeedApprovals = PEOPLE
    crash_at: str | None = None
    policies: dict[str, ServicePolicy] = field(default_factory=lambda: {"pg": POLICY})

    def __post_init__(self) -> None:
        self.stores = AdoptStores(*(self.store(kind) for kind in ("taken", "attempts", "outcomes", "refusals")))

    def store(self, kind: str) -> FileRecordStore:
        """Records of one kind."""
        return FileRecordStore(self.folder / kind)

    def adopt(self) -> list[Adopted]:
        """One pass of a new process."""

        def boundary(name: str) -> None:
            if name == self.crash_at:
                raise Crashed(name)

        adopter = Adopter(
            self.stores,
            policies=self.policies,
            runners=["cloud-runner"],
            transport=Local(self.config, self.lie),
            epochs=FileStarts(self.folder / "starts"),
            trust=Trust(VERIFIER, self.people, ApprovalPolicy(), 2),
            signer=STAGES["execution"],
            clock=SystemClock(),
            boundary=boundary,
        )
        return asyncio.run(adopter.step())

    def records(self) -> tuple[list[Attempt], list[AttemptOutcome]]:
        """What it knows."""
        attempts = [Attempt.read(self.stores.attempts.read(name)) for name in self.stores.attempts.ids()]
        return attempts, [AttemptOutcome.read(self.stores.outcomes.read(name)) for name in self.stores.outcomes.ids()]


@pytest.mark.req("DEC-6", "INV-7", "EXE-1")
def test_a_rebuilt_control_host_adopts_the_outcome_once(lost: Loss, tmp_path: Path) -> None:
    """Generation and primary follow from the runner's proof; epochs go on above; a second look finds nothing new."""
    control = Control(tmp_path / "control", lost.runner.config)

    (first,) = control.adopt()
    (second,) = control.adopt()

    assert (first.state, second.state, [first.run_id]) == ("adopted", "known", lost.folders.run_ids())
    attempts, outcomes = control.records()
    mode = mode_of(POLICY, 7, attempts, outcomes)
    assert (mode.generation, mode.primary, mode.open_attempt) == (8, "cloud-db", None)
    assert FileStarts(tmp_path / "control" / "starts").next_epoch() > lost.folders.seen("pg").epoch
    assert lost.runner.effects == STEPS


@pytest.mark.req("LOOP-1", "INV-7")
@pytest.mark.parametrize("crash_at", ["taken", "noted", "attempt", "outcome"])
def test_killed_while_it_adopts_there_is_one_of_each_in_the_end(lost: Loss, tmp_path: Path, crash_at: str) -> None:
    """Between any two of its records: the next pass ends with one attempt and one outcome."""
    control = Control(tmp_path / "control", lost.runner.config, crash_at=crash_at)
    with pytest.raises(Crashed):
        control.adopt()
    control.crash_at = None

    (found,) = control.adopt()

    assert found.state == ("known" if crash_at == "outcome" else "adopted")
    assert [len(kind) for kind in control.records()] == [1, 1]


class Boaster:
    """A session whose runner has a spec with this epoch, and a journal and a result that its own key vouches for."""

    def __init__(self, real: FramedSession, epoch: int, outcome: Outcome = Outcome.SUCCEEDED, *, said: int = 0) -> None:
        self._real, self._epoch, self._outcome, self._said = real, epoch, outcome, said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def taken(self, run_id: str) -> bytes:
        """With the epoch; under it nothing is signed."""
        told = TakenOver.read(await self._real.taken(run_id))
        self._spec = told.spec.model_copy(update={"epoch": self._epoch})
        return told.model_copy(update={"spec": self._spec}).encoded()

    async def jobs(self) -> list[RunStatus]:
        """With numbers that nobody signed."""
        told = await self._real.jobs()
        return [dataclasses.replace(j, epoch=self._said, facts={**j.facts, "epoch_seen": self._said}) for j in told]

    async def collect(self, run_id: str, *, confirm: bool = True) -> RunReturn:
        """The journal as it was, but for the spec that it opened."""
        home = await self._real.collect(run_id, confirm=confirm)
        opening, lines = home.journal.splitlines()[0], []
        head = journal.FIRST
        for raw in home.journal.splitlines():
            body = json.loads(raw)
            if raw == opening:
                body["body"]["spec_digest"] = canonical.digest_bytes(canonical.encode(self._spec.body()))
            lines.append(json.dumps({**body, "prev": head}, separators=(",", ":")).encode())
            head = journal.digest_line(lines[-1])
        change = {"journal_head": head, "outcome": self._outcome, "exit_code": 0, "run_id": self._spec.run_id}
        result = sign_record(home.result.model_copy(update=change), STAGES["runner:cloud-runner"])
        return RunReturn(result, b"".join(line + b"\n" for line in lines), b"")


class Older(Boaster):
    """A session whose runner is of a release that took any words for who begins a takeover."""

    def __init__(self, real: FramedSession) -> None:
        super().__init__(real, 0)

    async def jobs(self) -> list[RunStatus]:
        """The one run, under the id that these words give it."""
        (job,) = await self._real.jobs()
        self._true = job.run_id
        self._told = TakenOver.read(await self._real.taken(job.run_id))
        self._spec = _begun_by(self._told.spec, "the one on duty")
        return [dataclasses.replace(job, run_id=self._spec.run_id)]

    async def taken(self, run_id: str) -> bytes:
        """That run."""
        return self._told.model_copy(update={"spec": self._spec}).encoded()

    async def collect(self, run_id: str, *, confirm: bool = True) -> RunReturn:
        """Its journal and result."""
        return await super().collect(self._true, confirm=confirm)


@pytest.mark.req("DEC-6", "APR-1")
@pytest.mark.fault(33)
def test_a_takeover_of_an_older_runner_is_adopted_whatever_it_calls_who_began_it(lost: Loss, tmp_path: Path) -> None:
    """It has run: generation and primary follow, or control would go on from the old ones. Approvals count as ever."""
    control = Control(tmp_path / "control", lost.runner.config, lie=Older)

    (found,) = control.adopt()
    assert (found.state, found.run_id in lost.folders.run_ids()) == ("adopted", False), found.detail
    mode = mode_of(POLICY, 7, *control.records())
    assert (mode.generation, mode.primary) == (8, "cloud-db")
    few = Control(tmp_path / "few", lost.runner.config, lie=Older, people=SeedApprovals(APPROVER))
    assert few.adopt()[0].state == "refused"


@pytest.mark.req("INV-3", "INV-8")
def test_only_an_epoch_that_is_proved_is_followed(lost: Loss, tmp_path: Path) -> None:
    """Jobs that tell of 2**40 move nothing, the signed journal's does; a spec that it did not open is refused."""
    true = lost.folders.seen("pg").epoch
    boasting = Control(tmp_path / "a", lost.runner.config, lie=lambda real: Boaster(real, true, said=2**40))
    assert boasting.adopt()[0].state == "adopted"
    assert [boasting.adopt()[0].state, FileStarts(tmp_path / "a" / "starts").next_epoch()] == ["known", true + 1]

    def later(told: TakenOver) -> TakenOver:
        return told.model_copy(update={"spec": told.spec.model_copy(update={"epoch": 2**20})})

    lying = Control(tmp_path / "b", lost.runner.config, lie=lambda real: Liar(real, later))
    (refused,) = lying.adopt()
    assert (refused.state, "opened for another spec" in refused.detail) == ("refused", True)
    assert (lying.records(), FileStarts(tmp_path / "b" / "starts").next_epoch()) == (([], []), 1)


class OtherServices:
    """A session whose runner has had runs of other services too; the numbers are signed by nobody."""

    def __init__(self, real: FramedSession, **seen: Any) -> None:
        self._real, self._seen = real, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def jobs(self) -> list[RunStatus]:
        """The takeover, and one finished run of each."""
        others = [
            RunStatus(f"run-20260101T000000Z-0000000{n}", "finished", 1, None, {"service": name, "epoch_seen": epoch})
            for n, (name, epoch) in enumerate(self._seen.items())
        ]
        return [*await self._real.jobs(), *others]


@pytest.mark.req("INV-3", "UX-1")
def test_a_service_that_runners_have_seen_further_of_is_told_and_not_followed(lost: Loss, tmp_path: Path) -> None:
    """Its next runs are refused: said at each look, with the mend. Of what may still run, of another executor's service
    and of what is no number nothing is said; and once the count is above, nothing any more."""
    last = lost.folders.seen("pg").epoch
    told = {"web": last + 2, "mail": last + 1, "foreign": 900, "odd": True}

    def telling(real: FramedSession) -> OtherServices:
        return OtherServices(real, **told)

    ours = dict.fromkeys(("pg", "web", "mail", "odd"), POLICY)
    control = Control(tmp_path / "control", lost.runner.config, lie=telling, policies=ours)

    adopted, web = control.adopt()
    assert (adopted.state, web.state, web.runner_ref, web.run_id) == ("adopted", "behind", "cloud-runner", None)
    assert f"runs of web had epoch {last + 2} there, and here {last} is the last" in web.detail
    assert [one.state for one in control.adopt()] == ["known", "behind"]
    starts = FileStarts(tmp_path / "control" / "starts")
    assert (starts.last_epoch(), starts.next_epoch()) == (last, last + 1)
    assert [one.state for one in control.adopt()] == ["known"]

    (tmp_path / "control" / "starts" / "epoch").write_text("x")
    assert {one.state for one in control.adopt()} == {"known", "behind"}
    assert "not a number" in control.adopt()[1].detail


@pytest.mark.req("INV-3", "UX-1")
def test_a_leap_of_epochs_is_refused_whoever_signed_it(lost: Loss, tmp_path: Path) -> None:
    """One step further than any executor comes: nothing is adopted, and why is on record; just below it is followed."""
    far = Control(tmp_path / "far", lost.runner.config, lie=lambda real: Boaster(real, EPOCH_STEP_MAX + 1))
    for _ in range(2):
        (refused,) = far.adopt()
        assert (refused.state, f"epoch {EPOCH_STEP_MAX + 1} is over {EPOCH_STEP_MAX}" in refused.detail) == (
            "refused",
            True,
        )
    assert (far.records(), FileStarts(tmp_path / "far" / "starts").next_epoch()) == (([], []), 1)
    assert len(far.stores.refusals.ids()) == 1

    near = Control(tmp_path / "near", lost.runner.config, lie=lambda real: Boaster(real, EPOCH_STEP_MAX))
    assert near.adopt()[0].state == "adopted"
    assert FileStarts(tmp_path / "near" / "starts").next_epoch() == EPOCH_STEP_MAX + 1


@pytest.mark.req("INV-3")
def test_the_epoch_of_a_run_that_was_not_admitted_is_nobodys(lost: Loss, tmp_path: Path) -> None:
    """A refused run took no number: none is followed; the executor counts from the first one all the same."""

    def refusing(real: FramedSession) -> Boaster:
        return Boaster(real, 2**20, Outcome.REFUSED)

    control = Control(tmp_path / "control", lost.runner.config, lie=refusing)
    control.adopt()
    assert FileStarts(tmp_path / "control" / "starts").next_epoch() == 2


LIES = {
    "another run": lambda t: t.model_copy(update={"spec": t.spec.model_copy(update={"run_id": "run-1"})}),
    "other inputs": lambda t: t.model_copy(update={"inputs": t.inputs.model_copy(update={"now_s": 2.0})}),
    "no approvals": lambda t: t.model_copy(update={"spec": t.spec.model_copy(update={"approvals": []})}),
    "an ordinary run": lambda t: t.model_copy(
        update={"spec": spec_of(PLAN).model_copy(update={"run_id": t.spec.run_id})}
    ),
    "another plan": lambda t: t.model_copy(
        update={"spec": t.spec.model_copy(update={"plan": plan_of([step("x")], inputs=INPUTS)})}
    ),
}


@pytest.mark.req("INV-4", "INV-8")
@pytest.mark.parametrize("name", LIES)
def test_a_runner_that_tells_another_story_is_not_followed(lost: Loss, tmp_path: Path, name: str) -> None:
    """What its signatures do not carry is refused once, on record, and moves nothing."""
    control = Control(tmp_path / "control", lost.runner.config, lie=lambda real: Liar(real, LIES[name]))

    assert [control.adopt()[0].state for _ in range(2)] == ["refused", "refused"]
    assert control.records() == ([], [])
    assert len(control.stores.refusals.ids()) == 1


class Beside(Boaster):
    """A session whose runner tells of one takeover more, first, whose journal is torn or cannot be had now."""

    def __init__(self, real: FramedSession, why: HyopsError | None = None) -> None:
        super().__init__(real, 0)
        self._why = why

    async def jobs(self) -> list[RunStatus]:
        """The bad one and the good one."""
        (job,) = await self._real.jobs()
        self._told = TakenOver.read(await self._real.taken(job.run_id))
        self._spec, self._true = _begun_by(self._told.spec, BOB), job.run_id
        return [dataclasses.replace(job, run_id=self._spec.run_id), job]

    async def taken(self, run_id: str) -> bytes:
        """Signed, both of them."""
        if run_id == self._true:
            return await self._real.taken(run_id)
        return self._told.model_copy(update={"spec": self._spec}).encoded()

    async def collect(self, run_id: str, *, confirm: bool = True) -> RunReturn:
        """What comes of the bad one is looked at as everything that comes."""
        if run_id == self._true:
            return await self._real.collect(run_id, confirm=confirm)
        if self._why is not None:
            raise self._why
        home = await super().collect(self._true, confirm=confirm)
        signed = home.result.encoded()
        return open_return(signed, home.journal[:-1], b"", run_id=run_id, runner_ref="cloud-runner", verifier=VERIFIER)


@pytest.mark.req("DEC-6", "INV-7")
def test_a_takeover_that_does_not_verify_hides_no_later_one(lost: Loss, tmp_path: Path) -> None:
    """It is refused, once and on record; the next one of the same runner is adopted."""
    control = Control(tmp_path / "control", lost.runner.config, lie=Beside)

    bad, good = control.adopt()
    assert (bad.state, good.state) == ("refused", "adopted"), bad.detail
    assert "torn line" in bad.detail
    assert [one.state for one in control.adopt()] == ["refused", "known"]
    (refusal,) = [Refusal.read(control.stores.refusals.read(name)) for name in control.stores.refusals.ids()]
    assert (refusal.subject_id, refusal.error) == (bad.run_id, "EvidenceError")
    assert [outcome.run_id for outcome in control.records()[1]] == [good.run_id]


@pytest.mark.req("DEC-6", "INV-7")
@pytest.mark.parametrize("why", [DeadlineError("its disk took too long"), StoreLostError("no quorum")])
def test_a_takeover_that_cannot_be_looked_at_now_hides_no_later_one(
    lost: Loss, tmp_path: Path, why: HyopsError
) -> None:
    """That proves nothing about it, so nothing is refused: it is told, and asked for again."""
    control = Control(tmp_path / "control", lost.runner.config, lie=lambda real: Beside(real, why))

    bad, good = control.adopt()
    assert (bad.state, bad.detail, good.state) == ("failed", why.message, "adopted")
    assert control.stores.refusals.ids() == []
    assert [one.state for one in control.adopt()] == ["failed", "known"]


@pytest.mark.req("EVD-2", "INV-7")
@pytest.mark.parametrize("how", ["a byte is another", "its end is gone"])
def test_a_damaged_journal_is_refused_and_on_record(quiet: Runner, tmp_path: Path, how: str) -> None:
    """As the runner's real server hands it over: not told as a runner that is away, and nothing follows from it."""
    loss = Loss(quiet, outputs=PROMOTED)
    run_id = loss.to_the_end().run_id
    file = loss.folders.run(run_id) / "journal.jsonl"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"cloud-db", b"cloud-dc") if how == "a byte is another" else data[:-200])

    control = Control(tmp_path / "control", quiet.config)
    found = [control.adopt() for _ in range(2)]
    assert [(one.run_id, one.state) for (one,) in found] == [(run_id, "refused")] * 2, found
    assert control.records() == ([], [])
    assert len(control.stores.refusals.ids()) == 1


@pytest.mark.req("APR-1")
def test_approvals_that_do_not_count_on_control_are_not_adopted(lost: Loss, tmp_path: Path) -> None:
    """Whatever the runner trusted, control asks its own list."""
    control = Control(tmp_path / "control", lost.runner.config, people=SeedApprovals(APPROVER))

    assert control.adopt()[0].state == "refused"
    assert control.records() == ([], [])


@pytest.mark.req("GEN-1")
def test_two_runs_that_promoted_under_one_generation_are_not_both_believed(lost: Loss, tmp_path: Path) -> None:
    """The quorum gives a generation to one run: where two claim it, people look."""
    control, other = Control(tmp_path / "control", lost.runner.config), Control(tmp_path / "other", lost.runner.config)
    other.adopt()
    (outcome,) = other.records()[1]
    rival = sign_record(
        outcome.model_copy(update={"run_id": "run-20260101T000000Z-00000000", "attempt_id": "attempt-2"}),
        STAGES["execution"],
    )
    control.stores.outcomes.create(rival.outcome_id, rival.encoded())

    (found,) = control.adopt()
    assert (found.state, "both promoted" in found.detail) == ("refused", True)


@pytest.mark.req("EVD-1", "EVD-2", "INV-4")
def test_evidence_of_a_takeover_verifies_offline_and_its_forgeries_do_not(quiet: Runner, tmp_path: Path) -> None:
    """With public keys alone: who approved, who began it, what the runner did; under another key it is named."""
    Loss(quiet).to_the_end()
    control = Control(tmp_path / "control", quiet.config)
    (adopted,) = control.adopt()
    (attempt,), (outcome,) = control.records()
    taken = TakenOver.read(control.stores.taken.read(str(adopted.run_id)))

    async def home() -> Any:
        link = LocalLink(quiet.config)
        try:
            return await session(link).collect(str(adopted.run_id))
        finally:
            await link.drop()

    def story(inputs: DecisionInputs = taken.inputs, **change: Any) -> Story:
        spec = taken.spec
        return Story(
            request=spec.request, decision=spec.decision, plan=spec.plan, approvals=spec.approvals,
            execution=spec.execution, attempt=attempt, run_return=returned, outcome=outcome, inputs=inputs,
        )  # fmt: skip

    returned = asyncio.run(home())
    path = assemble(story(), directory=tmp_path / "evidence", signer=STAGES["execution"], now=datetime.now(UTC))

    verified = verify_path(path, VERIFIER, PEOPLE)
    assert any(f"taken over by {APPROVER}" in remark for remark in verified.remarks)
    with pytest.raises((BadRecordError, NotApprovedError)):
        verify_path(path, VERIFIER, SeedApprovals(APPROVER))
    shutil.rmtree(path)
    true = taken.spec
    assert true.execution.takeover is not None
    stranger = true.execution.takeover.model_copy(update={"by": "operator"})
    begun_by = true.execution.model_copy(update={"takeover": stranger})
    for record, role, why in [
        (true.execution, "dispatch", "may not speak as runner:cloud-runner"),
        (begun_by, "runner:cloud-runner", "who began it is none of those who approved it"),
    ]:
        forged = sign_record(record, STAGES[role])
        taken = taken.model_copy(update={"spec": true.model_copy(update={"execution": forged})})
        path = assemble(story(), directory=tmp_path / why[:9], signer=STAGES["execution"], now=datetime.now(UTC))
        with pytest.raises(BadRecordError, match=why):
            verify_path(path, VERIFIER, PEOPLE)
