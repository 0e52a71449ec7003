"""`hyops runner blueprint` through real stages and a real sshd: asked for, approved, run, and refused in every way."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import moved_clock
from deploy_site import HYOPS, STAGES, DeploySite
from hyops.cli.main import main
from hyops.compose_operator import offline_verifiers
from hyops.model.asking import statement_of
from hyops.model.decision import Decision
from hyops.model.observed import DecisionInputs
from hyops_lab.wiring import service
from hyops_lab.wiring.keys import SECOND
from loopback import missing

pytestmark = pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))

Said = tuple[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeploySite]:
    """One control host and one runner for all of these; a no-op leaves the service's generation as it was."""
    with DeploySite(tmp_path_factory.mktemp("deploy")).up() as up:
        yield up


@pytest.fixture
def run(site: DeploySite, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """The command itself, with JSON lines as its answer; the site's files are as they were afterwards."""

    def ran(verb: str, *words: str, ref: str = "core/noop@v1") -> Said:
        capsys.readouterr()
        code = main([*site.words(verb, *words, ref=ref), "--json"])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    yield ran
    site.configure()


def requests(site: DeploySite) -> list[str]:
    """Every request that there is."""
    return site.store("dispatch", "requests").ids()


def told(said: list[dict[str, Any]], event: str) -> dict[str, Any]:
    """The one line about it."""
    return next(line for line in said if line.get("event") == event)


@pytest.mark.req("RUN-2", "GATE-1")
def test_preflight_names_every_check_and_leaves_nothing_behind(site: DeploySite, run: Callable[..., Said]) -> None:
    """One connection, all checks, no decision, no request, nothing on the runner."""
    before = site.connections()

    code, said = run("preflight")

    states = {finding["check"]: finding["state"] for finding in told(said, "preflight")["findings"]}
    wanted = {"plan", "approval", "fence", "runner", "clock", "free", "access", "data", "secrets"}
    assert (code, set(states), site.connections() - before) == (0, wanted, 1)
    assert "bad" not in states.values()
    assert requests(site) == []
    assert site.folders.run_ids() == []


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("there", ["nothing", "a folder", "another thing"])
def test_each_stages_configuration_is_refused_by_its_name(
    site: DeploySite, run: Callable[..., Said], tmp_path: Path, stage: str, there: str
) -> None:
    """Whichever of the four it is; nothing was touched, and the option that names it stands in the hint."""
    path, before = tmp_path / "config.json", site.connections()
    if there == "a folder":
        path.mkdir()
    elif there == "another thing":
        path.write_text('{"colour": "red"}')

    code, said = run("preflight", f"--{stage}-config", str(path))

    assert (code, said[-1]["effect"], str(path) in said[-1]["message"]) == (11, "none", True)
    assert there == "another thing" or f"--{stage}-config" in said[-1]["hint"]
    assert site.connections() == before


@pytest.mark.req("APR-3", "RUN-7")
def test_yes_is_not_an_approval(site: DeploySite, run: Callable[..., Said]) -> None:
    """Nobody has signed: the command ends 13, the request stays open, and nothing runs."""
    code, said = run("deploy", "--yes", "--wait", "0.2")

    request = told(said, "request")
    assert code == 13
    assert request["approve_with"].startswith(f"hyops approval grant {request['dispatch_id']} --key")
    assert site.store("approval", "executions").ids() == []
    assert site.folders.run_ids() == []
    result = site.root / "logs" / "runner" / told(said, "decision")["decision_id"] / "dispatch.result.json"
    assert json.loads(result.read_text())["error"] == "NotApprovedError"


@pytest.mark.req("APR-3")
def test_no_terminal_is_no_consent(site: DeploySite, run: Callable[..., Said]) -> None:
    """Without a terminal and without --yes nothing is even asked for."""
    before = requests(site)

    code, _ = run("deploy")

    assert (code, requests(site)) == (13, before)


@pytest.mark.req("RUN-2", "RUN-7", "APR-3", "EXE-1")
def test_it_waits_for_the_approval_and_follows_the_run_to_its_end(site: DeploySite) -> None:
    """The very command that it prints makes it go on; decision, request, execution and outcome are the loop's own."""
    before = site.connections()
    argv = [str(HYOPS), *site.words("deploy", "--yes")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as deploying:
        assert deploying.stdout is not None
        lines = []
        for line in deploying.stdout:
            lines.append(line)
            if line.startswith("  approve: "):
                command = line.removeprefix("  approve: ").replace("YOUR_SSH_KEY", str(site.ring.folder / "approver"))
                words = [str(HYOPS), *command.split()[1:], "--yes"]
                subprocess.run(words, check=True, capture_output=True)
        code = deploying.wait()

    outcomes, attempts = site.store("execution", "outcomes").ids(), site.store("execution", "attempts").ids()
    assert (code, len(attempts), len(outcomes), site.connections() - before) == (0, 1, 1, 1)
    run_id = site.folders.run_ids()[-1]
    folder = site.root / "logs" / "runner" / run_id
    assert sorted(path.name for path in folder.iterdir()) == [
        "dispatch.request.json",
        "dispatch.result.json",
        "runner.log",
    ]
    assert json.loads((folder / "dispatch.result.json").read_text())["status"] == "succeeded"
    assert (site.folder / "execution" / "state" / "evidence" / run_id).is_dir()
    assert not (site.folders.run(run_id) / "bundle").exists()


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize(
    ("change", "words", "code", "says"),
    [
        ({}, ("--runner-ref", "onprem-runner"), 16, "mapping.none/failover says cloud-runner"),
        ({"mapping": {}}, (), 11, "mapping.none/failover: absent"),
        ({"place": {"site": "onprem"}}, ("--occasion", "unplanned"), 12, "onprem, which failed"),
        ({}, ("--failed-site", "cloud"), 12, "cloud, which failed"),
        ({"place": {"reached_through": ["onprem"]}}, ("--failed-site", "onprem"), 12, "onprem, which failed"),
        ({"route": {"runner_ref": "onprem-runner"}}, (), 16, "goes to runner onprem-runner"),
        ({"execution": {"mode": "dry-run"}}, (), 12, "dry-run mode"),
        ({}, ("--decision-type", "failback"), 2, "the way from there is a failover"),
        ({}, ("--runner-ref", "a", "--runner-state-ref", "b/c"), 2, "exclude each other"),
        ({}, ("--runner-vm-key", "one"), 2, "belongs to --runner-state-ref"),
        ({}, ("--runner-state-ref", "platform/linux/ops-runner"), 12, "No such file"),
        ({}, ("--by", " "), 2, "--by"),
        ({}, ("--by", "decision-service"), 2, "you are not the loop"),
        ({}, ("--rationale", "x" * 4097), 2, "--rationale"),
        ({}, ("--despite-hold", ""), 2, "--despite-hold"),
        ({}, ("--skip-preflight",), 2, "go together"),
        ({}, ("--skip-preflight", "--preflight-bypass-reason", " "), 2, "go together"),
    ],
)
def test_what_is_refused_before_anything_is_recorded(
    site: DeploySite, run: Callable[..., Said], change: dict[str, Any], words: tuple[str, ...], code: int, says: str
) -> None:
    """Every wrong selection is refused by name; no decision is recorded."""
    site.configure(**change)
    before = site.store("decision", "records").ids()

    ended, said = run("deploy", "--yes", *words)

    assert (ended, site.store("decision", "records").ids()) == (code, before)
    assert says in said[-1]["message"]


@pytest.mark.req("ROOT-1", "RUN-6")
@pytest.mark.parametrize("stage", ["dispatch", "execution"])
@pytest.mark.parametrize("there", [True, False])
def test_a_stage_of_another_root_than_the_selected_one_is_refused(
    site: DeploySite, run: Callable[..., Said], tmp_path: Path, stage: str, there: bool
) -> None:
    """State would go home to an environment that nobody selected: both paths are named, and nothing is recorded."""
    other, before = tmp_path / "other", (requests(site), site.connections())
    if there:
        other.mkdir()
    site.configure(**{stage: {"runtime_root": str(other)}})

    code, said = run("deploy", "--yes", "--wait", "0.2")

    assert (code, said[-1]["effect"], (requests(site), site.connections())) == (11, "none", before)
    assert all(str(path) in said[-1]["message"] for path in (other, site.root, site.config(stage)))


@pytest.mark.req("ROOT-1")
def test_the_selected_root_under_another_name_is_the_same_root(
    site: DeploySite, run: Callable[..., Said], tmp_path: Path
) -> None:
    """A link to it, in a stage's configuration, is no other environment."""
    link = tmp_path / "prod"
    link.symlink_to(site.root)
    site.configure(dispatch={"runtime_root": str(link)}, execution={"runtime_root": f"{site.root}/"})

    assert run("preflight")[0] == 0


@pytest.mark.req("RUN-2")
def test_another_blueprint_than_the_route_says_is_refused(site: DeploySite, run: Callable[..., Said]) -> None:
    """What runs is what the route says, so another name is a mistake and no wish."""
    code, said = run("preflight", ref="dr/postgresql-warm-promote@v1")

    assert code == 16
    assert "is routed to core/noop@v1" in said[-1]["message"]


@pytest.fixture
def away(site: DeploySite) -> Callable[..., Path]:
    """Makes the runner's place one where nothing listens; returns what its bootstrap command would leave."""

    def made(name: str, **place: Any) -> Path:
        left = site.folder / name
        login = json.loads(site.config("execution").read_text())["runners"]["cloud-runner"]
        nobody = {"runners": {"cloud-runner": {**login, "port": 1}}}
        site.configure(place={"bootstrap": ["touch", str(left)], **place}, execution=nobody)
        return left

    return made


@pytest.fixture
def entrance(site: DeploySite) -> Iterator[Path]:
    """The line that lets the dispatcher in; as it was afterwards."""
    path = site.ssh / "authorized_keys"
    before = path.read_text()
    yield path
    path.write_text(before)


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, ("preflight",)),
        (None, ("deploy", "--yes", "--bootstrap-runner")),
        ("ok", ("deploy", "--yes", "--bootstrap-runner")),
        ("error", ("deploy", "--yes", "--bootstrap-runner")),
        ("unknown", ("deploy", "--yes", "--bootstrap-runner")),
    ],
)
def test_a_runner_that_is_merely_unreachable_is_never_made(
    site: DeploySite, run: Callable[..., Said], away: Callable[..., Path], status: str | None, words: tuple[str, ...]
) -> None:
    """Silence is no absence, whatever flag was given and whatever state that is not `destroyed` it left behind."""
    place = {} if status is None else {"state_ref": state(site, status=status)}
    made, before = away("never", **place), requests(site)

    code, said = run(*words)

    assert (code, made.exists(), requests(site)) == (12, False, before)
    assert "unreachable, and nothing shows that it does not stand" in said[-1]["message"]
    assert f"touch {made}" in said[-1]["hint"]


@pytest.mark.req("RUN-2")
def test_a_state_that_cannot_be_read_shows_no_absence(
    site: DeploySite, run: Callable[..., Said], away: Callable[..., Path]
) -> None:
    """Neither does a copy of another's record: the record is named beside the runner, and nothing is made."""
    made = away("never", state_ref=state(site, status="destroyed", module_ref="platform/linux/other"))

    code, said = run("deploy", "--yes", "--bootstrap-runner")

    assert (code, made.exists()) == (12, False)
    assert "platform/linux/other" in said[-1]["message"]


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize("left", ["destroyed", "nothing"])
def test_a_bootstrap_by_an_explicit_flag_is_recorded(
    site: DeploySite, run: Callable[..., Said], away: Callable[..., Path], left: str
) -> None:
    """Where the state shows that it does not stand, the flag runs the command; that it did stands in the record."""
    ref = state(site, status="destroyed")
    made = away(f"made-{left}", state_ref=ref if left == "destroyed" else f"{ref}_of_none")
    before = {path.name for path in (site.root / "logs" / "runner").glob("*")}

    code, _ = run("deploy", "--yes", "--bootstrap-runner")

    assert (code, made.exists()) == (12, True)
    (folder,) = [path for path in (site.root / "logs" / "runner").glob("*") if path.name not in before]
    recorded = json.loads((folder / "dispatch.request.json").read_text())
    assert recorded["bootstrap"] == ["touch", str(made)]
    assert recorded["bootstrap_runner"] is True


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize("lacks", ["hyops", "its configuration"])
@pytest.mark.parametrize("flag", [True, False])
def test_a_host_that_says_that_no_runner_stands_there_is_made_one_by_the_flag_alone(
    site: DeploySite, run: Callable[..., Said], entrance: Path, lacks: str, flag: bool
) -> None:
    """It answers under its pinned key: no such program, or nobody's runner. What was made is asked at once."""
    line, good = entrance.read_text(), site.folder / "entrance"
    good.write_text(line)
    config = str(site.runner_config)
    entrance.write_text(
        line.replace(str(HYOPS), "/nowhere/hyops") if lacks == "hyops" else line.replace(config, f"{config}.none")
    )
    site.configure(place={"bootstrap": ["cp", str(good), str(entrance)]})
    before = requests(site)

    code, said = run("deploy", "--yes", "--wait", "0.2", *(["--bootstrap-runner"] if flag else []))

    assert (entrance.read_text() == line, code) == (flag, 13 if flag else 12)
    assert len(requests(site)) == len(before) + flag
    assert flag or "does not stand" in said[-1]["message"]


@pytest.mark.req("GATE-1", "RUN-11")
@pytest.mark.parametrize(("off_s", "fits"), [(3600.0, False), (-3600.0, False), (5.0, True), (-5.0, True)])
def test_a_runner_whose_clock_is_off_is_refused_before_anything_is_asked_for(
    site: DeploySite, run: Callable[..., Said], entrance: Path, off_s: float, fits: bool
) -> None:
    """An hour is named with its side by preflight and by deploy, and a few seconds are nothing."""
    entrance.write_text(entrance.read_text().replace(str(HYOPS), f"{moved_clock.words(site.folder, off_s)} {HYOPS}"))
    before, runs = requests(site), site.folders.run_ids()

    looked, said = run("preflight")
    states = {finding["check"]: finding for finding in told(said, "preflight")["findings"]}

    assert (looked, states["clock"]["state"]) == ((0, "ok") if fits else (12, "bad"))
    assert ("ahead of" if off_s > 0 else "behind") in states["clock"]["detail"]
    assert fits or (run("deploy", "--yes", "--wait", "0.2")[0], requests(site)) == (12, before)
    assert site.folders.run_ids() == runs


def state(site: DeploySite, **change: Any) -> str:
    """A runner's state record in the runtime root; returns its reference."""
    ref, instance = "platform/linux/ops-runner", "cloud_bootstrap"
    path = site.root / "state" / "modules" / ref.replace("/", "__") / "instances" / f"{instance}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "module_ref": ref,
        "run_id": "run-20260101T000000Z-00000000",
        "status": "ok",
        "updated_at": "2026-01-01T00:00:00Z",
        "state_instance": instance,
        "generation": 1,
        "outputs": {"cap.ctrl.runner": "ready", "runner_ref": "cloud-runner"},
    }
    path.write_text(json.dumps({**body, **change}))
    os.chmod(path, 0o600)
    return f"{ref}#{instance}"


@pytest.mark.req("RUN-2", "ROOT-3")
@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        ({}, (), 0),
        ({"outputs": {"cap.ctrl.runner": "ready", "runners": {"one": "cloud-runner"}}}, ("--runner-vm-key", "one"), 0),
        ({"outputs": {"cap.ctrl.runner": "ready", "runners": {"one": "cloud-runner"}}}, (), 2),
        ({}, ("--runner-vm-key", "one"), 2),
        ({"status": "unknown"}, (), 12),
        ({"status": "error"}, (), 12),
        ({"outputs": {"runner_ref": "cloud-runner"}}, (), 12),
        ({"outputs": {"cap.ctrl.runner": "absent", "runner_ref": "cloud-runner"}}, (), 12),
        ({"outputs": {"cap.ctrl.runner": "ready", "runner_ref": "onprem-runner"}}, (), 16),
        ({"outputs": {"cap.ctrl.runner": "ready"}}, (), 12),
        ({"state_instance": "another"}, (), 11),
        ({"status": "fine"}, (), 11),
    ],
)
def test_a_runner_from_its_state_record(
    site: DeploySite, run: Callable[..., Said], change: dict[str, Any], words: tuple[str, ...], code: int
) -> None:
    """Only a state that is ok and says that the runner is ready selects it, and only the one that the mapping names."""
    ref = state(site, **change)

    ended, _ = run("preflight", "--runner-state-ref", ref, *words)

    assert ended == code


@pytest.mark.req("GATE-4")
def test_a_preflight_that_is_left_out_is_recorded_first_and_skips_no_approval(
    site: DeploySite, run: Callable[..., Said]
) -> None:
    """The reason stands in the record and in the signed decision; plan, approval and fence are looked at."""
    code, said = run("deploy", "--yes", "--wait", "0.2", "--skip-preflight", "--preflight-bypass-reason", "it burns")

    states = {finding["check"]: finding["state"] for finding in told(said, "preflight")["findings"]}
    decision_id = told(said, "decision")["decision_id"]
    recorded = json.loads((site.root / "logs" / "runner" / decision_id / "dispatch.request.json").read_text())
    assert code == 13
    assert (states["plan"], states["approval"], states["fence"], states["runner"]) == ("ok", "later", "ok", "bypassed")
    assert recorded["preflight_bypass_reason"] == "it burns"
    assert "it burns" in json.loads(site.store("decision", "records").read(decision_id))["rationale"]


def known(site: DeploySite) -> dict[str, Any]:
    """Who asks has to be known, and whose keys count is said."""
    names = ("allowed_signers", "approvers")
    files = {name: str(next(site.ring.folder.glob(f"{name}*"))) for name in names}
    return {"decision": {"people": files}, "approval": {"require_known_requester": True}}


@pytest.mark.req("APR-1", "RUN-2")
def test_who_asks_is_proved_by_a_key(site: DeploySite, run: Callable[..., Said]) -> None:
    """Whoever the key belongs to asks, its signature is recorded, and one other person is enough."""
    site.configure(**known(site))
    key = str(site.ring.folder / "second")

    (typed, proved) = (run("preflight", *words) for words in ((), ("--key", key)))
    code, said = run("deploy", "--yes", "--wait", "0.2", "--key", key)

    needed = [next(f["detail"] for f in told(lines, "preflight")["findings"] if f["check"] == "approval")
              for _, lines in (typed, proved)]  # fmt: skip
    assert [text.split(" of ")[0] for text in needed] == ["2", "1"]
    assert code == 13, "nobody approved it"
    made = Decision.of(json.loads(site.store("decision", "records").read(told(said, "decision")["decision_id"])))
    inputs = DecisionInputs.of(json.loads(site.store("decision", "inputs").read((made.inputs_digest or "")[7:])))
    assert inputs.asked is not None
    assert inputs.asked.proof is not None
    assert (made.requested_by, made.requester_key) == (SECOND, inputs.asked.proof.key_fingerprint)
    statement = statement_of(inputs.asked, service="pg", env=service.ENV, signed_at=inputs.asked.proof.signed_at)
    files = (site.ring.folder / name for name in ("trusted_keys.json", "allowed_signers", "approvers.json"))
    people = offline_verifiers(*files)[1]
    assert people is not None
    people.verify(SECOND, statement.signed_bytes(), inputs.asked.proof.ssh_signature, inputs.asked.proof.signed_at)
    assert told(said, "request")["requester_key"] == made.requester_key


@pytest.mark.req("APR-1", "UX-1")
@pytest.mark.parametrize(
    ("knows", "words", "code", "says"),
    [
        (True, ("--key", "second", "--by", "mallory"), 2, "leave --by out"),
        (True, ("--key", "decision.pem"), 12, "decision.pem"),
        (False, ("--key", "second"), 11, "people: absent"),
    ],
)
def test_a_key_that_proves_nothing_asks_for_nothing(
    site: DeploySite, run: Callable[..., Said], knows: bool, words: tuple[str, ...], code: int, says: str
) -> None:
    """Somebody else's name, no key of a person's, nobody who counts: refused before anything is recorded."""
    site.configure(**(known(site) if knows else {}))
    before = site.store("decision", "records").ids()
    key = str(site.ring.folder / words[1])

    ended, said = run("deploy", "--yes", "--key", key, *words[2:])

    assert (ended, site.store("decision", "records").ids()) == (code, before), said
    assert says in said[-1]["message"] + said[-1]["hint"]


@pytest.mark.req("GATE-4", "APR-1")
def test_a_left_out_preflight_does_not_leave_out_the_approvers(site: DeploySite, run: Callable[..., Said]) -> None:
    """Three are needed and there are two: refused before anything is recorded, reason or not."""
    site.configure(approval={"required": 3})
    before = site.store("decision", "records").ids()

    code, _ = run("deploy", "--yes", "--skip-preflight", "--preflight-bypass-reason", "it burns")

    assert (code, site.store("decision", "records").ids()) == (13, before)
