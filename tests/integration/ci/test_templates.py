"""The shipped workflows: every `run:` line is taken out of the file and executed, on a host without any network.

A forge would do no more than this: set the environment, run each line by bash, hand its outputs to the next. As root
each step has no network device, so nothing can be dialled, and sees the control host's folder mounted read-only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import yaml

from ci_site import CiSite, switch_now
from fault_size import FULL, SEED
from hyops.cli.main import main
from hyops.model.vocabulary import Outcome
from hyops.services.ci_templates import PLACES, template
from hyops_lab.wiring import service

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
ACTION = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
FORGES = sorted(PLACES)
WHOLE = "test_every_line_runs_and_the_evidence_is_kept"  # on every forge, always
STAGES = ("decision", "dispatch", "approval", "execution")
SHIM = """#!/bin/sh
case "$1 $2" in
"runner bootstrap") shift 2; printf '%s\\n' "$@" > {folder}/bootstrap.argv; exit 0 ;;
"runner status") shift 2; set -- runner status --config {folder}/../site/executor.json "$@" ;;
esac
exec {python} -m hyops "$@"
"""
"""hyops with the executor's configuration of this test; a bootstrap is only written down, it has tests of its own."""


@dataclass
class Step:
    """One command of a workflow, with the variables that are set for it."""

    name: str
    script: str
    env: dict[str, str] = field(default_factory=dict)
    outputs: str | None = None
    last_look: bool = False  # also after a failure, once the request was found good


def read(forge: str) -> Any:
    """The workflow as the forge parses it."""
    return yaml.safe_load(template(forge).read_text())


def jobs_of(forge: str) -> dict[str, Any]:
    """Every job by its name."""
    said = read(forge)
    if forge != "gitlab":
        found: dict[str, Any] = said["jobs"]
        return found
    return {name: job for name, job in said.items() if isinstance(job, dict) and "script" in job}


BOOTSTRAP = {"github": "bootstrap", "forgejo": "bootstrap", "gitlab": "hyops-bootstrap"}
NOT_ASKED = {
    "github": {"if": "${{ inputs.bootstrap_runner != '' }}", "environment": "hyops-bootstrap"},
    "forgejo": {"if": "${{ inputs.bootstrap_runner != '' }}"},
    "gitlab": {
        "rules": [{"if": "$HYOPS_DISPATCH_ID && $HYOPS_BOOTSTRAP_RUNNER", "when": "manual"}],
        "environment": "hyops-bootstrap",
    },
}
"""What keeps the job from running for anybody who does not ask for it."""


def steps_of(forge: str, *, bootstrap: bool = False) -> Iterator[Step]:
    """The commands of the recovery in the order in which they run, or those of the job that makes a runner."""
    said = read(forge)
    if forge == "gitlab":
        jobs = jobs_of(forge)
        for stage in said["stages"]:
            for name, job in jobs.items():
                if job["stage"] == stage and (name == BOOTSTRAP[forge]) is bootstrap:
                    report = job.get("artifacts", {}).get("reports", {}).get("dotenv")
                    last_look = any(rule.get("when") == "always" for rule in job.get("rules", []))
                    yield Step(name, "\n".join(job["script"]), {}, report, last_look)
        return
    job = said["jobs"][BOOTSTRAP[forge] if bootstrap else "recovery"]
    for step in job["steps"]:
        if "run" in step:
            env = {**job["env"], **step.get("env", {})}
            last_look = step.get("if") == "${{ always() && steps.validate.outcome == 'success' }}"
            assert last_look or "if" not in step
            yield Step(step.get("id", ""), step["run"], env, "GITHUB_OUTPUT", last_look)


class FakeForge:
    """Runs the steps of one workflow for one request, as the forge would."""

    def __init__(self, forge: str, site: CiSite, folder: Path) -> None:
        self.forge, self.site, self.folder = forge, site, folder
        self.outputs: dict[str, dict[str, str]] = {}
        self.said: list[str] = []
        self.named = ""
        folder.mkdir()
        (folder / "kept").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin" / "hyops").write_text(SHIM.format(python=sys.executable, folder=folder))
        (folder / "bin" / "hyops").chmod(0o755)

    def run(self, *, bootstrap: bool = False) -> tuple[str | None, int]:
        """The step that failed first and its exit code; None and 0 when all went well."""
        failed, first, ended = None, 0, dict[str, int]()
        for step in steps_of(self.forge, bootstrap=bootstrap):
            if failed is None or (step.last_look and (self.forge == "gitlab" or ended["validate"] == 0)):
                ended[step.name] = self.step(step)
                if failed is None and ended[step.name] != 0:
                    failed, first = step.name, ended[step.name]
        return failed, first

    def step(self, step: Step) -> int:
        """One step in a shell of its own."""
        handed = self.folder / f"outputs-{step.name}"
        env = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "HYOPS_DISPATCH_ID": self.site.dispatch_id,
            "RUNNER_TEMP": str(self.folder),
            "GITHUB_OUTPUT": str(handed),
            **{key: self.expanded(value) for key, value in step.env.items()},
            "HYOPS_STORE": str(self.site.store),
            "HYOPS_CI_TRUST": str(self.site.trust),
            "HYOPS_CI_EVIDENCE": str(self.folder / "kept"),
            "HYOPS_BOOTSTRAP_RUNNER": self.named,
        }
        if self.forge == "gitlab":  # a dotenv report of an earlier job that this one needs is its environment
            for needed in jobs_of(self.forge).get(step.name, {}).get("needs", []):
                env |= self.outputs.get(needed, {})
            env |= {"HYOPS_STORE": "/nowhere", "HYOPS_CI_TRUST": "/nowhere"}  # set by whoever started the pipeline
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.placed(step.script)]
        done = subprocess.run(
            [*self.alone(), *bash], env=env, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        self.said.append(done.stdout + done.stderr)
        out = handed if step.outputs == "GITHUB_OUTPUT" else self.folder / (step.outputs or "none")
        lines = out.read_text().splitlines() if out.exists() else []
        self.outputs[step.name] = dict(line.split("=", 1) for line in lines)
        return done.returncode

    def placed(self, script: str) -> str:
        """The script with the folders of this test in the place of the real ones."""
        return script.replace("/opt/hybridops", str(self.site.store)).replace("/etc/hyops/ci", str(self.site.trust))

    def alone(self) -> list[str]:
        """What cuts a step off; only root can."""
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            return []
        return ["unshare", "--net", "--mount", "sh", "-c", READ_ONLY, str(self.site.store)]

    def expanded(self, value: str) -> str:
        """The few expressions that the templates use; a name that no step has put out is an error here."""

        def found(match: re.Match[str]) -> str:
            expression = match.group(1).strip()
            if expression.startswith("inputs."):
                return {"dispatch_id": self.site.dispatch_id, "bootstrap_runner": self.named}[expression[7:]]
            _, step, _, name = expression.split(".")
            return self.outputs[step][name]

        return EXPRESSION.sub(found, value)

    def kept(self) -> list[str]:
        """Every file that would be kept as evidence."""
        folders = [self.folder / "hyops-evidence", self.folder / "kept" / self.site.dispatch_id]
        return sorted(path.name for folder in folders if folder.is_dir() for path in folder.iterdir())

    def standing(self) -> dict[str, Any] | None:
        """What the last look said; None when there was none."""
        found = [*self.folder.glob("hyops-status.json"), *self.folder.glob("kept/*.status.json")]
        return json.loads(found[0].read_text()) if found and found[0].stat().st_size else None

    def made(self) -> list[str]:
        """How `hyops runner bootstrap` was called; nothing when it was not."""
        path = self.folder / "bootstrap.argv"
        return path.read_text().splitlines() if path.exists() else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every line of each forge's workflow runs; of what else may happen each test takes one forge, on demand all."""
    if "forge" in metafunc.fixturenames:
        name = metafunc.function.__name__
        chosen = FORGES if FULL or name == WHOLE else [FORGES[(crc32(name.encode()) + SEED) % len(FORGES)]]
        metafunc.parametrize("forge", chosen, indirect=True)


@pytest.fixture
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> FakeForge:
    """A request that was approved and run, and the workflow of a forge."""
    site = CiSite(tmp_path / "site").ask().approve().run()
    return FakeForge(request.param, site, tmp_path / "work")


@pytest.mark.req("RUN-12")
def test_every_line_runs_and_the_evidence_is_kept(forge: FakeForge) -> None:
    """From the validation to verified evidence, without a network; the control host's folder stays as it was."""
    before = {path: path.read_bytes() for path in forge.site.store.rglob("*") if path.is_file()}

    assert forge.run() == (None, 0), forge.said
    assert forge.kept() == ["evidence.tar", "report.html", "summary.json"]
    told = forge.standing()
    assert told is not None
    assert (told["dispatch_id"], told["approval"], told["run"]) == (forge.site.dispatch_id, "ready", "succeeded")
    assert {path: path.read_bytes() for path in forge.site.store.rglob("*") if path.is_file()} == before


@pytest.mark.req("RUN-12")
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can cut a step off")
def test_a_step_is_really_cut_off(forge: FakeForge) -> None:
    """The guard of this file: a step that dials, or writes to the control host's folder, fails here."""
    dials = "exec 3<>/dev/tcp/127.0.0.1/22"
    writes = f"touch {forge.site.store}/planted"

    assert forge.step(Step("dials", dials)) != 0
    assert "Network is unreachable" in forge.said[-1]
    assert forge.step(Step("writes", writes)) != 0
    assert "Read-only" in forge.said[-1]


@pytest.mark.req("RUN-12", "APR-3")
def test_without_an_approval_the_gate_stays_shut(forge: FakeForge) -> None:
    """The step that enforces ends 13; nothing after it runs, and no evidence is kept."""
    shutil.rmtree(forge.site.folder("approval", "approvals"))
    reject = forge.site.statement(verdict="reject", note="not now")
    forge.site.put(forge.site.signed(reject, name="-no"))

    failed, code = forge.run()

    assert (str(failed).removeprefix("hyops-"), code) == ("enforce", 13)
    assert forge.kept() == []
    told = forge.standing()
    assert told is not None
    assert (told["approval"], "not now" in told["approval_reason"]) == ("refused", True)


@pytest.mark.req("RUN-12", "RUN-2")
def test_a_runner_in_the_failed_site_stops_the_workflow(forge: FakeForge) -> None:
    """Before anybody is asked to approve."""
    text = (forge.site.trust / "runners.yml").read_text()
    (forge.site.trust / "runners.yml").write_text(text.replace("site: cloud", "site: onprem"))

    failed, code = forge.run()

    assert (str(failed).removeprefix("hyops-"), code) == ("select", 12)


@pytest.mark.req("RUN-12", "INV-4")
def test_a_request_that_changes_between_two_steps_is_noticed(forge: FakeForge) -> None:
    """The digest of the first step binds the others: another well signed request under the same id ends 16."""
    from hyops.model.dsse import sign_record
    from hyops.testing.evidence import STAGES

    first, second, *_ = steps_of(forge.forge)
    assert forge.step(first) == 0
    other = forge.site.switch.request.model_copy(update={"rationale": "another"})
    path = forge.site.folder("dispatch", "requests") / f"{forge.site.dispatch_id}.json"
    path.write_bytes(sign_record(other, STAGES["dispatch"]).encoded())

    assert forge.step(second) == 16, forge.said


@pytest.mark.req("RUN-12", "INV-4")
def test_a_digest_that_got_lost_on_the_way_stops_the_workflow(forge: FakeForge) -> None:
    """An output that is misnamed, or emptied by somebody, would leave the later steps bound to nothing."""
    first, second, *_ = steps_of(forge.forge)
    assert forge.step(first) == 0
    forge.outputs[first.name]["HYOPS_REQUEST_DIGEST"] = ""

    assert forge.step(second) == 2, forge.said


@pytest.mark.req("RUN-12", "EVD-2")
@pytest.mark.fault(31)
def test_evidence_that_does_not_verify_turns_the_workflow_red(forge: FakeForge) -> None:
    """Exit 41 from the last step."""
    chain = forge.site.folder("execution", "evidence") / forge.site.switch.attempt.run_id / "evidence.jsonl"
    chain.write_bytes(chain.read_bytes()[:-10])

    failed, code = forge.run()

    assert (str(failed).removeprefix("hyops-"), code) == ("collect", 41)
    assert "evidence.tar" not in forge.kept()


@pytest.mark.req("RUN-12")
@pytest.mark.parametrize("name", FORGES)
def test_a_failed_run_turns_the_workflow_red_and_keeps_its_evidence(name: str, tmp_path: Path) -> None:
    """With the run's own exit code."""
    site = CiSite(tmp_path / "site", switch_now(Outcome.FAILED)).ask().approve().run()
    forge = FakeForge(name, site, tmp_path / "work")

    failed, code = forge.run()

    assert (str(failed).removeprefix("hyops-"), code) == ("collect", 20)
    assert "evidence.tar" in forge.kept()


@pytest.mark.req("RUN-12", "INV-10")
@pytest.mark.parametrize("value", ["--help", "x; $(touch planted) `touch planted`", "../x\ny"])
def test_an_input_is_data_and_never_a_command(value: str, forge: FakeForge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may start the workflow chooses a request's id, not what runs."""
    monkeypatch.setattr(CiSite, "dispatch_id", value)

    failed, code = forge.run()

    assert (str(failed).removeprefix("hyops-"), code in (2, 11, 12)) == ("validate", True)
    assert not (forge.folder / "planted").exists()
    assert "error" in (forge.standing() or {"error": "no look at what was not found good"})


def executor_of(site: CiSite, *runners: str) -> None:
    """The executor's configuration, as the host has it where bootstraps are made; nobody listens at the addresses."""
    (site.root / "known_hosts").touch()
    (site.root / "dispatcher").write_bytes(site.key.read_bytes())
    (site.root / "dispatcher").chmod(0o600)
    login = {
        "address": "127.0.0.1",
        "port": 9,
        "user": "hyops",
        "key_file": str(site.root / "dispatcher"),
        "known_hosts": str(site.root / "known_hosts"),
    }
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionExecutor",
        "homes": {name: str(site.folder(name, "x").parent.parent) for name in STAGES},
        "signing_key": str(site.root / "execution.pem"),
        "trusted_keys": str(site.trust / "trusted_keys.json"),
        "protected": [{"policy": service.policy()}],
        "runners": dict.fromkeys(runners, login),
    }
    (site.root / "executor.json").write_text(json.dumps(body))


@pytest.mark.req("RUN-12", "RUN-2")
def test_a_missing_runner_is_made_when_it_is_named(forge: FakeForge) -> None:
    """The one that the request runs on, which does not answer: the bootstrap is called with its name and its files."""
    executor_of(forge.site, "cloud-runner")
    forge.named = "cloud-runner"

    assert forge.run(bootstrap=True) == (None, 0), forge.said
    files, key = "/etc/hyops/runners/cloud-runner", "/etc/hyops/bootstrap_key"
    assert forge.made() == ["--files", files, "--admin-key", key, "--", "cloud-runner"]


@pytest.mark.req("RUN-12", "RUN-2", "INV-10")
def test_another_name_makes_no_runner(forge: FakeForge) -> None:
    """A runner that the request does not run on, and what would be an option, a command or a path."""
    executor_of(forge.site, "cloud-runner", "onprem-runner")
    for named in ("onprem-runner", "", "--help", "x; $(touch planted) `touch planted`", "../x"):
        forge.named = named

        failed, code = forge.run(bootstrap=True)

        assert (str(failed).removeprefix("hyops-") in ("may-bootstrap", "bootstrap"), code) == (True, 16), forge.said
        assert forge.made() == []
        assert not (forge.folder / "planted").exists()


@pytest.mark.req("RUN-12", "RUN-2")
def test_nobody_knows_whether_a_runner_is_missing_that_nobody_can_ask(forge: FakeForge) -> None:
    """Without an executor's configuration, or without its login there: refused, and nothing is made."""
    forge.named = "cloud-runner"
    assert forge.run(bootstrap=True)[1] == 11
    executor_of(forge.site, "onprem-runner")
    assert forge.run(bootstrap=True)[1] == 12
    assert forge.made() == []


@pytest.mark.req("RUN-12", "RUN-2")
@pytest.mark.parametrize("name", FORGES)
def test_a_runner_is_made_for_nobody_who_does_not_ask(name: str) -> None:
    """The job is off unless a person names the runner; nothing needs it, and its host is another one than CI's."""
    jobs = jobs_of(name)
    job = jobs[BOOTSTRAP[name]]

    assert {key: job.get(key) for key in NOT_ASKED[name]} == NOT_ASKED[name]
    assert [key for key, other in jobs.items() if BOOTSTRAP[name] in other.get("needs", [])] == []
    hosts = {key: str(other.get("runs-on") or other.get("tags")) for key, other in jobs.items()}
    assert [key for key, labels in hosts.items() if "hyops-bootstrap" in labels] == [BOOTSTRAP[name]]
    if name != "gitlab":
        asked = read(name)[True]["workflow_dispatch"]["inputs"]["bootstrap_runner"]
        assert (asked["default"], asked["required"], asked["type"]) == ("", False, "string")
    guard = [step.script for step in steps_of(name, bootstrap=True)]
    lines = "\n".join(guard).splitlines()
    assert ["may-bootstrap" in line for line in lines] == [False, True, False]


# What a forge would refuse or a reviewer would ask about, read from the files.


@pytest.mark.req("RUN-12", "INV-10")
@pytest.mark.parametrize("name", FORGES)
def test_no_command_holds_an_expression_a_secret_or_a_way_out(name: str) -> None:
    """No `${{` in a script, no secrets anywhere, and no program that opens connections."""
    text = template(name).read_text()

    assert "secrets." not in text
    for step in steps_of(name):
        assert "${{" not in step.script
        assert [line.split()[:2] for line in step.script.splitlines()] == [["hyops", "ci"]]
    made = [step.script for step in steps_of(name, bootstrap=True)]
    assert "${{" not in "".join(made)
    commands = [line.split()[:3] for line in "\n".join(made).splitlines()]
    wanted = [("runner", "status"), ("ci", "may-bootstrap"), ("runner", "bootstrap")]
    assert commands == [["hyops", *words] for words in wanted]


@pytest.mark.req("RUN-12")
@pytest.mark.parametrize("name", ["github", "forgejo"])
def test_permissions_are_none_and_actions_are_pinned(name: str) -> None:
    """`permissions: {}`, no trigger but a person's, and each action by the full digest of a commit, or none."""
    said = read(name)
    steps = [step for job in said["jobs"].values() for step in job["steps"]]

    assert said["permissions"] == {}
    assert list(said[True]) == ["workflow_dispatch"]  # YAML 1.1 reads the key `on` as true
    assert [step["uses"] for step in steps if "uses" in step and not ACTION.fullmatch(step["uses"])] == []
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert all(job["timeout-minutes"] <= 60 and "runs-on" in job for job in said["jobs"].values())
    if name == "forgejo":
        assert [step for step in steps if "uses" in step] == []


WORKFLOW = {"name", "run-name", "on", "permissions", "env", "defaults", "concurrency", "jobs", True}
JOB = {"name", "permissions", "needs", "if", "runs-on", "environment", "concurrency", "outputs", "env", "defaults"}
JOB |= {"steps", "timeout-minutes", "strategy", "continue-on-error", "container", "services", "uses", "with"}
STEP = {"id", "if", "name", "uses", "run", "working-directory", "shell", "with", "env"}
STEP |= {"continue-on-error", "timeout-minutes"}
GITLAB = {"extends", "stage", "needs", "script", "artifacts", "tags", "timeout", "interruptible", "variables", "rules"}
GITLAB |= {"environment"}


@pytest.mark.req("RUN-12")
@pytest.mark.parametrize("name", FORGES)
def test_every_key_is_one_that_the_forge_knows(name: str) -> None:
    """A mistyped key would be ignored by one forge and refused by another."""
    said = read(name)
    if name == "gitlab":
        jobs = {key: job for key, job in said.items() if key != "stages"}
        assert {key for job in jobs.values() for key in job} <= GITLAB
        assert {job["stage"] for job in jobs_of(name).values()} == set(said["stages"])
        assert all(job["extends"] in said for job in jobs_of(name).values())
        assert all(need in jobs for job in jobs_of(name).values() for need in job.get("needs", []))
        return
    assert set(said) <= WORKFLOW
    for job in said["jobs"].values():
        assert set(job) <= JOB
        assert all(set(step) <= STEP for step in job["steps"])
        ids = [step["id"] for step in job["steps"] if "id" in step]
        used = re.findall(r"steps\.([\w-]+)\.", json.dumps(job))
        assert len(ids) == len(set(ids))
        assert set(used) <= set(ids)


@pytest.mark.req("RUN-12")
@pytest.mark.parametrize("name", FORGES)
def test_the_files_are_tidy(name: str) -> None:
    """One document, two spaces, no tabs, no trailing space, no long line, one newline at the end, no key twice."""
    text = template(name).read_text()
    node = yaml.compose(text)

    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for line in text.splitlines():
        assert line == line.rstrip(), line
        assert "\t" not in line, line
        assert len(line) <= 140, line
        assert (len(line) - len(line.lstrip())) % 2 == 0, line
    assert twins(node) == []


def twins(node: Any) -> list[str]:
    """Keys that stand twice in one mapping."""
    found: list[str] = []
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        found += [key for key in set(keys) if keys.count(key) > 1]
        for _, value in node.value:
            found += twins(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            found += twins(item)
    return found


@pytest.mark.req("RUN-12")
@pytest.mark.parametrize("name", FORGES)
def test_the_template_is_written_where_the_forge_looks(name: str, tmp_path: Path) -> None:
    """Once; the same again is no error; a file of somebody's own is kept unless told otherwise."""
    words = ["ci", "init", name, "--directory", str(tmp_path)]
    path = tmp_path / PLACES[name]

    assert main(words) == 0
    assert path.read_bytes() == template(name).read_bytes()
    assert main(words) == 0
    path.write_text("mine")
    assert main(words) == 12
    assert path.read_text() == "mine"
    assert main([*words, "--force"]) == 0
    assert path.read_bytes() == template(name).read_bytes()
    assert [item.name for item in path.parent.iterdir()] == [path.name]
