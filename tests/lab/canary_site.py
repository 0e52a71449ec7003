"""A blueprint with a secret between two hosts of the lab: `control` deploys it, `cloud-runner` runs it.

Beside the lab's own loop: stages of their own as units, with the lab's users and keys, and services of their own. The
runner is the lab's own one, with a key to which secrets are sealed; of its job only the driver is another one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fakes.server import authority_files
from fakes.vault import FakeVault, Policy
from hyops.adapters.sealer_hpke import SealKey
from hyops_lab import Lab, approver
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL, Json
from hyops_lab.machine import processes
from hyops_lab.release import APP, SITE
from hyops_lab.wiring import common, runner, service
from hyops_lab.wiring.control import ETC, KINDS, KNOWN_HOSTS
from lab.switch_lab import LIMIT_S, watch
from lab.traces import CANARY
from loopback import in_network

RUNNER, KEY, BLUEPRINT = "cloud-runner", "DB_PASSWORD", "lab/canary@v1"
HOME, LIB, JOBS = "/opt/canary", "/usr/local/lib/hyops-canary", "/run/hyops/canary"
ROOT = f"{HOME}/envs/{service.ENV}"
SEAL_KEY, TOKEN = "/etc/hyops/canary-seal.pem", "a token, and no canary"
DROP_IN = "/run/systemd/system/hyops-run@.service.d/canary.conf"
STAGES = ("dispatch", "approval", "execution")
HERE = Path(__file__).parent
START = f"""#!/usr/bin/python3 -IS
import runpy, sys
sys.path += ["/{APP}/src", "/{SITE}", "/usr/lib/python3/dist-packages", "{LIB}"]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Vault(FakeVault):
    """The authority on the control host."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens[TOKEN.replace(" ", "-")] = Policy(("secret/",))
        self.put("secret/canary", {"password": CANARY})


class CanarySite:
    """Everything of it; `services` are what is deployed for, one after the other, so that none waits for another."""

    def __init__(self, lab: Lab, services: list[str]) -> None:
        self.lab, self.services, self.vault = lab, services, Vault()
        self._before = lab.read(RUNNER, runner.CONFIG)

    @contextmanager
    def up(self) -> Iterator[CanarySite]:
        """While it stands; the runner is as it was afterwards."""
        with in_network(self.lab.names.namespace(CONTROL)):
            serving = self.vault.serve()
            url = serving.__enter__()
        try:
            self._runner()
            self._control(url)
            yield self
        finally:
            self.lab.exec(CONTROL, ["systemctl", "stop", *map(unit, STAGES)], check=False)
            self.lab.write(RUNNER, runner.CONFIG, self._before)
            self.lab.exec(RUNNER, ["sh", "-c", f"rm -rf {DROP_IN} {JOBS} && systemctl daemon-reload"], check=False)
            serving.__exit__(None, None, None)

    # --- the two hosts

    def _runner(self) -> None:
        key_file = self.lab.names.state / "canary-seal.pem"
        self.key = SealKey.create(key_file)
        lab = self.lab
        lab.write(RUNNER, SEAL_KEY, key_file.read_bytes(), 0o600, "hyops")
        config = {**json.loads(self._before), "seal_key": SEAL_KEY, "keep_finished_s": 0.0}
        lab.write(RUNNER, runner.CONFIG, json.dumps(config).encode())
        lab.write(RUNNER, f"{LIB}/run", START.encode(), 0o755)
        for path in ("lab/guests/canary_job.py", "lab/guests/places.py", "integration/deploy/job_entry.py"):
            lab.write(RUNNER, f"{LIB}/{Path(path).name}", (HERE.parent / path).read_bytes())
        start = f"{LIB}/run {LIB}/canary_job.py --config {runner.CONFIG} %i"
        lab.write(RUNNER, DROP_IN, f"[Service]\nExecStart=\nExecStart={start}\n".encode())
        lab.exec(RUNNER, ["sh", "-c", f"install -d -o hyops {JOBS} && systemctl daemon-reload"])

    def _control(self, vault_url: str) -> None:
        lab = self.lab
        files = {
            f"{ROOT}/config/runner/runners.yml": self._runners(),
            f"{ROOT}/config/secrets/vault/allowed.csv": f"db,{KEY},secret/canary#password\n",
            f"{ROOT}/credentials/token": TOKEN.replace(" ", "-"),
            f"{ROOT}/credentials/password": "not the canary\n",
            f"{ROOT}/credentials/ca.pem": authority_files()[0].read_text(),
            f"{ROOT}/config/secrets/secrets.yml": yaml.safe_dump(
                {
                    "api_version": "hybridops/v1",
                    "kind": "Secrets",
                    "password": {"file": "credentials/password"},
                    "vault": {
                        "address": vault_url,
                        "token_file": "credentials/token",
                        "ca_file": "credentials/ca.pem",
                    },
                }
            ),
            f"{HOME}/catalog/blueprints/{BLUEPRINT}/blueprint.yml": yaml.safe_dump(_blueprint()),
            f"{LIB}/canary_deploy.py": (HERE / "guests/canary_deploy.py").read_text(),
        }
        for path, text in files.items():
            lab.write(CONTROL, path, text.encode(), 0o600 if "/credentials/" in path else 0o644)
        lab.write(CONTROL, f"{LIB}/run", START.encode(), 0o755)
        made = []
        for stage, user in common.STAGE_USERS.items():
            made.append(f"install -d -o {user.name} -g hyops-loop {HOME}/{stage}")
            made += [
                f"install -d -m 2750 -o {user.name} -g hyops-loop {HOME}/{stage}/state{kind}"
                for kind in ("", *(f"/{kind}" for kind in KINDS[stage]))
            ]
            for name, body in self._configs(stage):
                lab.write(CONTROL, f"{HOME}/{name}.json", json.dumps(body).encode(), 0o640, f"{user.name}:hyops-loop")
        for stage in STAGES:
            lab.write(CONTROL, f"/run/systemd/system/{unit(stage)}", _unit(stage))
        units = " ".join(map(unit, STAGES))
        lab.exec(CONTROL, ["sh", "-ec", "\n".join([*made, "systemctl daemon-reload", f"systemctl start {units}"])])

    def _configs(self, stage: str) -> Iterator[tuple[str, Json]]:
        signer = "operator" if stage == "decision" else stage
        common_part = {
            "api_version": "hybridops/v1",
            "homes": {name: f"{HOME}/{name}" for name in common.STAGE_USERS},
            "signing_key": f"{ETC}/{signer}.pem",
            "trusted_keys": f"{ETC}/trusted_keys.json",
        }
        if stage == "decision":
            for name in self.services:
                body = {"kind": "DecisionService", "protected": _protected(name), "vantages": {}}
                yield f"decision-{name}", {**common_part, **body}
            return
        route = {"target_kind": "blueprint", "target_ref": BLUEPRINT, "target_env": service.ENV}
        route |= {"execution_plane": "runner-local", "runner_ref": RUNNER}
        login = {"address": HOSTS[RUNNER].address, "user": "hyops", "key_file": f"{ETC}/dispatcher_key"}
        bodies: dict[str, dict[str, Any]] = {
            "dispatch": {
                "kind": "DecisionDispatcher",
                "routes": {"env": service.ENV, "dispatcher_routes": {"failover": route}},
                "services": self.services,
                "catalogs": [f"{HOME}/catalog"],
                "runtime_root": ROOT,
            },
            "approval": {
                "kind": "DecisionConsumer",
                "policy": {"mode": "signed", "required": 1},
                "allowed_signers": f"{ETC}/allowed_signers",
                "approvers": f"{ETC}/approvers.json",
            },
            "execution": {
                "kind": "DecisionExecutor",
                "mode": "dispatch",
                "protected": [_protected(name) for name in self.services],
                "runners": {RUNNER: {**login, "known_hosts": KNOWN_HOSTS}},
                "runtime_root": ROOT,
            },
        }
        body = {**common_part, **bodies[stage]}
        if stage == "execution":  # the runtime root is of whoever deploys, so that the service could not write there
            yield "deploying", body
            body = {key: value for key, value in body.items() if key != "runtime_root"}
        yield stage, body

    def _runners(self) -> str:
        places = {RUNNER: {"site": "cloud", "seal_key": self.key.public}, "onprem-runner": {"site": "onprem"}}
        mapping = {"none/failover": RUNNER}
        body = {"kind": "RunnerMap", "runners": places, "onprem_sites": ["onprem"], "mapping": mapping}
        return yaml.safe_dump({"api_version": "hybridops/v1", **body})

    # --- a deployment

    @contextmanager
    def deploying(self, service_name: str, *, hold_at: str = "", **job: Any) -> Iterator[Deploying]:
        """The command, started; `job` says what the job does (see `guests.canary_job`)."""
        lab = self.lab
        lab.exec(RUNNER, ["sh", "-c", f"cd {JOBS} && rm -rf * && mkfifo -m 666 gate"])
        lab.write(RUNNER, f"{JOBS}/options.json", json.dumps(job).encode())
        note = f"{service_name}, and nothing secret\n"  # another file each time: there is something to ship
        lab.write(CONTROL, f"{ROOT}/config/overlays/note.txt", note.encode())
        files = [word for stage in STAGES for word in (f"--{stage}-config", f"{HOME}/{stage}.json")]
        words = ["runner", "blueprint", "deploy", BLUEPRINT, "--root", ROOT, "--service", service_name, *files]
        words += ["--execution-config", f"{HOME}/deploying.json"]
        words += ["--decision-config", f"{HOME}/decision-{service_name}.json", "--yes", "--json"]
        words += ["--sync-env", KEY, "--secret-source", "vault", "--secret-scope", "db"]
        argv = ["env", f"HOLD_AT={hold_at}", f"{LIB}/run", f"{LIB}/canary_deploy.py", *words]
        pipe = subprocess.PIPE
        with lab.popen(CONTROL, argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
            try:
                yield Deploying(self, process)
            finally:
                process.kill()

    def approve(self, request: Json) -> None:
        """A person's grant of this request."""
        made = approver.granted(self.lab, request, datetime.now(UTC))
        path = f"{HOME}/approval/state/approvals/{made.approval_id}.json"
        self.lab.write(CONTROL, path, made.encoded(), 0o640, "hyops-consumer:hyops-loop")

    def hyops(self, *words: str) -> list[Json]:
        """`hyops runner` on the control host, by the executor's configuration: its lines."""
        argv = ["hyops", "runner", *words, "--config", f"{HOME}/execution.json", "--runner-ref", RUNNER, "--json"]
        return [json.loads(line) for line in self.lab.exec(CONTROL, argv).stdout.splitlines()]

    def records(self, stage: str, kind: str, service_name: str) -> list[Json]:
        """Every record of a kind that is about a service."""
        folder = self.lab.machine(CONTROL).path(f"{HOME}/{stage}/state/{kind}")
        found = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
        return [record for record in found if record.get("service") == service_name]

    def wait_record(self, stage: str, kind: str, match: Callable[[Json], bool]) -> Json:
        """The first record that matches, as soon as it is there."""
        folder = self.lab.machine(CONTROL).path(f"{HOME}/{stage}/state/{kind}")
        found: list[Json] = []

        def there() -> bool:
            found[:] = filter(match, (json.loads(path.read_bytes()) for path in folder.glob("*.json")))
            return bool(found)

        watch(folder, there)
        return found[0]

    # --- the job

    def held_job(self) -> Json:
        """Where the job stands still, and its pid there: as soon as it does."""
        folder = self.lab.machine(RUNNER).path(JOBS)
        watch(folder, (folder / "at").exists)
        told: Json = json.loads((folder / "at").read_bytes())
        return told

    def kill_job(self, held: Json) -> None:
        """kill -9 of a job that stands still."""
        (self.lab.machine(RUNNER).path(JOBS) / "at").unlink()
        self.lab.exec(RUNNER, ["kill", "-9", str(held["pid"])])

    def release_job(self) -> None:
        """Let a job that stands still go on."""
        (self.lab.machine(RUNNER).path(JOBS) / "at").unlink()
        self.lab.exec(RUNNER, ["sh", "-c", f"echo > {JOBS}/gate"])

    def boundaries(self) -> list[str]:
        """Where the last job came by, in order, each once."""
        return list(dict.fromkeys(self.lab.read(RUNNER, f"{JOBS}/boundaries").decode().split()))

    def pids(self) -> list[int]:
        """Processes of both hosts."""
        return [pid for host in (CONTROL, RUNNER) for pid in processes(self.lab.machine(host).cgroup)]


class Deploying:
    """A deployment under way, read line by line."""

    def __init__(self, site: CanarySite, process: subprocess.Popen[bytes]) -> None:
        self._site, self.process, self.said, self._rest = site, process, b"", b""
        self.run_id: str | None = None

    def wait_event(self, wanted: str) -> Json:
        """The event, as soon as it is told; a request on the way there is approved."""
        for told in self._events():
            if told.get("event") == wanted:
                return told
        raise AssertionError(f"ended {self.process.wait()} before {wanted}: {self.said.decode(errors='replace')}")

    def kill(self, held: Json) -> None:
        """kill -9, where it stands still."""
        self._site.lab.exec(CONTROL, ["kill", "-9", str(held["pid"])])
        assert self.end() != 0

    def end(self) -> int:
        """Its exit code, at its end."""
        for _ in self._events():
            pass
        return self.process.wait(LIMIT_S)

    def _events(self) -> Iterator[Json]:
        for line in self._lines():
            try:
                told: Json = json.loads(line)
            except ValueError:
                continue
            if told.get("event") == "execution":
                self.run_id = told["run_id"]
            if told.get("event") == "request":
                self._site.approve({key: value for key, value in told.items() if key not in ("event", "approve_with")})
            yield told

    def _lines(self) -> Iterator[bytes]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                yield line
            if select.select([self.process.stdout], [], [], 1.0)[0]:
                chunk = os.read(self.process.stdout.fileno(), 65536)
                if not chunk:
                    return
                self.said += chunk
                self._rest += chunk
        raise TimeoutError(f"nothing within {LIMIT_S:g} s after: {self.said.decode(errors='replace')}")


def unit(stage: str) -> str:
    """The unit of a stage."""
    return f"hyops-canary-{stage}.service"


def _unit(stage: str) -> bytes:
    return common.unit(
        f"hyops: the {stage} stage of the canaries",
        service=[
            "Type=notify",
            f"User={common.STAGE_USERS[stage].name}",
            "Group=hyops-loop",
            "UMask=0027",
            f"ExecStart=/usr/bin/hyops service run {stage} --config {HOME}/{stage}.json",
            "NoNewPrivileges=yes",
            "CapabilityBoundingSet=",
            "ProtectSystem=strict",
            "PrivateTmp=yes",
            f"ReadWritePaths={HOME}/{stage}/state",
        ],
    )


def _protected(name: str) -> Json:
    return {"policy": {**service.policy(), "service": name}, "initial_generation": 1}


def _blueprint() -> Json:
    step = {"id": "nothing", "module_ref": "native/noop", "phase": "prepare", "timeout_s": 600}
    return {
        "api_version": "hybridops/v1",
        "kind": "BlueprintSpec",
        "blueprint_ref": BLUEPRINT,
        "title": "A step that gets a secret and a file",
        "inputs": {},
        "steps": [{**step, "inputs": {"note": "file:config/overlays/note.txt"}}],
    }
