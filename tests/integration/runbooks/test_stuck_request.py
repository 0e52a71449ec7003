"""The page for who was woken: every row's state is made by the real stages, its command typed, its words compared."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyops import compose_loop
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.signer_ed25519 import TrustedVerifier
from hyops.cli.main import main
from hyops.compose_store import serving, starts_of
from hyops.control.execution import attempt_of, closed_by_refusal
from hyops.errors import Effect, PrerequisiteError
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, Execution
from hyops.model.vocabulary import DecisionType, Level, Occasion
from hyops.services.config_execution import ExecutionConfig
from hyops.services.following import run
from hyops.testing.clock import FakeClock
from local_runner import LocalLink, session
from loop_site import LoopSite
from loopback import free_ports
from runbook import code, rows, says
from simulation.world import World, policy

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

pytestmark = pytest.mark.req("UX-1", "UX-2", "INV-7")
PAGE = "a-stuck-request.md"
TABLE = {row[0]: row[1:] for row in rows(PAGE, "what is wrong")}


class Night:
    """A control host, and what is typed there."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.site, self._capsys, self._patch = LoopSite(root), capsys, patch
        self.shell = dict(self.site.environment)
        self.runner: Runner | None = None

    def types(self, line: str, code: int | None = 0) -> str:
        """A command as a shell would read it, `$ID` and all; what was said."""
        for name, value in self.shell.items():
            self._patch.setenv(name, value)
            line = line.replace(f'"${name}"', shlex.quote(value))
        self._patch.chdir(self.site.root)
        self._capsys.readouterr()
        ended = main(shlex.split(line)[1:])
        said = self._capsys.readouterr()
        assert code in (None, ended), f"{line} ended {ended}: {said.out}{said.err}"
        return said.out + said.err

    def ask(self, age_s: float = 0.0) -> None:
        """Somebody asks for a switch, or did so a while ago."""
        with self._patch.context() as patch:
            at = datetime.now(UTC) - timedelta(seconds=age_s)
            patch.setattr(SystemClock, "now", lambda _self: at)
            said = self.types("hyops decision request --service pg --type failover --by bob --json")
        self.shell["ID"] = json.loads(said)["decision_id"]

    def comes(self, stage: str, kind: str, servers: str, **more: Any) -> str:
        """Let stages serve until there is one such record; its id."""
        store = self.site.records(stage, kind)
        self.site.serve(servers, lambda: bool(store.ids()), f"{kind} of {stage}", **more)
        return store.ids()[-1]

    def requested(self, age_s: float = 0.0) -> None:
        """There is a request."""
        self.ask(age_s)
        self.shell["ID"] = self.comes("dispatch", "requests", "dispatch")

    def approved(self) -> Execution:
        """There is an execution."""
        self.requested()
        self.types('hyops approval grant "$ID" --yes')
        name = self.comes("approval", "executions", "approval")
        return Execution.read(self.site.records("approval", "executions").read(name))

    def attempt(self, execution: Execution, age_s: float = 0.0) -> Attempt:
        """It was begun a while ago."""
        return self._tried(attempt_of(execution, "dispatch", datetime.now(UTC) - timedelta(seconds=age_s)))

    def another(self) -> Attempt:
        """A run of the service that somebody else has asked for."""
        other = self.approved().model_copy(update={"execution_id": "execution-other", "rationale": "another"})
        made = attempt_of(other, "dispatch", datetime.now(UTC))
        return self._tried(made)

    def _tried(self, attempt: Attempt) -> Attempt:
        signed = sign_record(attempt, self.site.keys["execution"])
        self.site.records("execution", "attempts").create(signed.attempt_id, signed.encoded())
        return attempt

    async def piped(self) -> None:
        """An executor whose runner is reached over pipes."""
        config = ExecutionConfig.read(self.site.config("execution").read_bytes())
        stores, verifier = (
            compose_loop.execution_stores(config.homes),
            TrustedVerifier.load(Path(config.trusted_keys)),
        )
        assert self.runner is not None
        stage = compose_loop.execution_stage(
            config, stores, starts_of(config.homes.execution), verifier,
            transport=Pipes(self.runner.config), mode="dispatch",
        )  # fmt: skip
        await run(stage, [stores.executions, stores.attempts, stores.outcomes], config.at_once)


class Pipes:
    """`RunnerTransport` to a runner's real server, without a link in between."""

    def __init__(self, config: Path) -> None:
        self._config = config

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[Any]:
        """A server of its own."""
        link = LocalLink(self._config)
        try:
            yield session(link)
        finally:
            await link.drop()


STATES: dict[str, Callable[[Night], None]] = {}
SERVING = {
    "nobody has approved it": "dispatch approval",
    "an approval is there and does not count": "dispatch approval",
    "a plan or request on disk was changed": "dispatch",
    "the dispatcher stands still": "dispatch",
    "the executor stands still": "execution",
    "another run of the service is open": "execution",
    "the runner cannot be reached": "execution",
    "the run takes too long": "execution",
}
"""The stages that run in this state; a lock is all that can be seen of one that is frozen."""


def state(name: str) -> Callable[[Callable[[Night], None]], Callable[[Night], None]]:
    """How the state of a row comes about."""

    def put(how: Callable[[Night], None]) -> Callable[[Night], None]:
        STATES[name] = how
        return how

    return put


@state("nobody has approved it")
def _(night: Night) -> None:
    night.requested()


@state("an approval is there and does not count")
def _(night: Night) -> None:
    night.requested()
    night.site.configure(approval={"approvers": str(night.site.root / "careless.json")})
    (night.site.root / "careless.json").write_text('{"roles": {"eve": ["approver"]}}')
    night.types(f'hyops approval grant "$ID" --yes --key {night.site.root}/eve')
    (night.site.root / "careless.json").write_text('{"roles": {"ada": ["approver"]}}')
    night.comes("approval", "refusals", "approval")


@state("a plan or request on disk was changed")
def _(night: Night) -> None:
    night.ask()
    home = night.site.root / "dispatch-home/state"
    (home / f"requests/{night.comes('dispatch', 'requests', 'dispatch')}.json").unlink()
    (name,) = night.site.records("dispatch", "plans").ids()
    plan = home / f"plans/{name}.json"
    plan.write_bytes(plan.read_bytes().replace(b"cloud-runner", b"other-runner"))
    night.comes("dispatch", "refusals", "dispatch")


@state("somebody rejected it")
def _(night: Night) -> None:
    night.requested()
    night.types('hyops approval reject "$ID" --yes --note "not now"')
    night.comes("approval", "refusals", "approval")


@state("a burst, and then the site was lost")
def _(night: Night) -> None:
    night.requested()
    store = night.site.records("dispatch", "requests")
    move = DispatchRequest.read(store.read(night.shell["ID"]))
    (night.site.root / f"dispatch-home/state/requests/{move.dispatch_id}.json").unlink()
    burst = move.model_copy(update={"decision_type": DecisionType.BURST, "signature": None})
    lost = {"dispatch_id": "dispatch-move", "source_decision_id": "decision-move", "occasion": Occasion.UNPLANNED}
    for made in (burst, move.model_copy(update={**lost, "signature": None})):
        signed = sign_record(made, night.site.keys["dispatch"])
        store.create(signed.dispatch_id, signed.encoded())
    night.comes("approval", "refusals", "approval")


@state("it was too late")
def _(night: Night) -> None:
    night.site.configure(dispatch={"max_age_s": 0.05})
    night.requested()
    night.comes("approval", "refusals", "approval")


@state("the clock of the host stepped ahead")
def _(night: Night) -> None:
    night.ask(age_s=3600.0)
    night.site.knew_clock("dispatch", 3600.0)


@state("the service is held")
def _(night: Night) -> None:
    world = World(service_policy=policy(decision_max_age_s=86400.0))
    world.clock = FakeClock(datetime.now(UTC))
    world.boot(0)
    world.say_hold(until=world.clock.now() + timedelta(hours=1))
    world.watch(3)
    world.site_dies()
    world.watch(3)
    (told,) = world.decisions(DecisionType.HOLD)
    signed = sign_record(told.model_copy(update={"signature": None}), night.site.keys["decision"])
    night.site.records("decision", "records").create(signed.decision_id, signed.encoded())


@state("the policy only watches")
def _(night: Night) -> None:
    night.ask()
    store = night.site.records("decision", "records")
    made = Decision.read(store.read(night.shell["ID"]))
    (night.site.root / "decision-home/state/records" / f"{made.decision_id}.json").unlink()
    watched = made.model_copy(update={"level": Level.MONITOR, "signature": None})
    signed = sign_record(watched, night.site.keys["decision"])
    store.create(signed.decision_id, signed.encoded())
    night.comes("dispatch", "refusals", "dispatch")


@state("no route leads anywhere")
def _(night: Night) -> None:
    night.site.configure(dispatch={"routes": {"env": "lab", "dispatcher_routes": {}}})
    night.ask()
    night.comes("dispatch", "refusals", "dispatch")


@state("the dispatcher can make no plan")
def _(night: Night) -> None:
    lane = {"target_ref": "core/nope@v1", "target_env": "lab", "execution_plane": "runner-local"}
    routes = {"env": "lab", "dispatcher_routes": {"failover": {**lane, "runner_ref": "cloud-runner"}}}
    night.site.configure(dispatch={"routes": routes})
    night.requested()


@state("the dispatcher is dead")
def _(night: Night) -> None:
    night.ask()


@state("the dispatcher stands still")
def _(night: Night) -> None:
    night.ask(age_s=30.0)


@state("the approval stage is dead")
def _(night: Night) -> None:
    night.requested()
    night.types('hyops approval grant "$ID" --yes')


@state("the executor is dead")
def _(night: Night) -> None:
    night.approved()


@state("the executor stands still")
def _(night: Night) -> None:
    made = night.approved()
    store = night.site.records("approval", "executions")
    (night.site.root / f"approval-home/state/executions/{made.execution_id}.json").unlink()
    past = made.model_copy(update={"timestamp_utc": made.timestamp_utc - timedelta(seconds=30), "signature": None})
    signed = sign_record(past, night.site.keys["approval"])
    store.create(signed.execution_id, signed.encoded())


@state("the executor only pretends")
def _(night: Night) -> None:
    night.site.configure(execution={"mode": "dry-run"})
    night.approved()
    night.comes("execution", "attempts", "execution")


@state("another run of the service is open")
def _(night: Night) -> None:
    night.another()


@state("the runner cannot be reached")
def _(night: Night) -> None:
    (port,) = free_ports(1)
    known = night.site.root / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(night.site.root / 'eve.pub').read_text()}")
    login = {"address": "127.0.0.1", "port": port, "user": "hyops", "known_hosts": str(known)}
    night.site.configure(execution={"runners": {"cloud-runner": {**login, "key_file": str(night.site.root / "eve")}}})
    night.approved()
    hindered = night.site.root / "execution-home/state/starts"
    night.site.serve("execution", lambda: bool([*hindered.glob("*.hindered")]), "a try")


@state("the executor died in mid-run")
def _(night: Night) -> None:
    night.attempt(night.approved())


@state("the run takes too long")
def _(night: Night) -> None:
    night.attempt(night.approved(), age_s=60.0)


@state("the runner refused it")
def _(night: Night) -> None:
    """It has never heard of the keys of these stages."""
    from tests.integration.runner.conftest import Runner

    night.approved()
    (night.site.root / "runner").mkdir()
    night.runner = Runner(night.site.root / "runner")
    night.runner.folders.make()
    try:
        night.comes("execution", "outcomes", "execution", execution=night.piped)
    finally:
        night.runner.end()


@state("nobody knows how it ended")
def _(night: Night) -> None:
    attempt = night.attempt(night.approved())
    lost = PrerequisiteError("its runner never answered")
    lost.effect = Effect.UNKNOWN
    signed = sign_record(closed_by_refusal(attempt, lost, datetime.now(UTC)), night.site.keys["execution"])
    night.site.records("execution", "outcomes").create(signed.outcome_id, signed.encoded())


@state("the record is not believed")
def _(night: Night) -> None:
    night.requested()
    path = night.site.root / f"dispatch-home/state/requests/{night.shell['ID']}.json"
    path.write_bytes(path.read_bytes().replace(b"cloud-runner", b"other-runner"))


@state("etcd has no quorum (loop on several hosts)")
def _(night: Night) -> None:
    (port,) = free_ports(1)
    body = json.loads(night.site.config("control").read_text())
    store = {"etcd": {"endpoints": [f"http://127.0.0.1:{port}"], "env": "lab"}}
    night.site.config("control").write_text(json.dumps({**body, "store": store}))


@pytest.fixture
def night(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Night:
    """A fresh one."""
    return Night(tmp_path / "site", capsys, monkeypatch)


@contextlib.contextmanager
def stages(night: Night, names: str) -> Iterator[None]:
    """They run, and do nothing meanwhile."""
    with contextlib.ExitStack() as stack:
        for name in names.split():
            stack.enter_context(serving(name, night.site.config(name)))
        yield


@pytest.mark.parametrize("wrong", TABLE)
def test_the_page_says_what_comes_out(night: Night, wrong: str) -> None:
    """In this very state the row's command says the row's words."""
    typed, expected, _ = TABLE[wrong]
    STATES[wrong](night)
    with stages(night, SERVING.get(wrong, "")):
        said = night.types(code(typed), None)

    assert says(code(expected), said), said


def test_every_state_has_its_row() -> None:
    """None is made that the page does not tell of."""
    assert set(STATES) == set(TABLE)
    assert set(SERVING) <= set(TABLE)
