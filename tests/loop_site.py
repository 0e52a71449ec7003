"""A control host in one folder: four stages with real keys and configurations, served in this process for a while."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hyops.adapters.clock_kept import KeptFile
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedKey, TrustedKeys
from hyops.adapters.store_files import FileRecordStore
from hyops.cli.service import daemon
from hyops.compose_clock import CLOCK_FILE
from hyops.compose_store import serving
from hyops.model.approval import SSHSIG_NAMESPACE
from hyops.services.config import Home
from hyops.services.job_facts import boot_id
from hyops.services.steady_clock import Known
from hyops.testing.evidence import STAGES as SEEDS
from simulation.world import policy
from waiting import until

STAGES = ("decision", "dispatch", "approval", "execution")
KINDS = {"decision": "DecisionService", "dispatch": "DecisionDispatcher", "approval": "DecisionConsumer"}
RUNNER = SEEDS["runner:cloud-runner"]  # what the tests' runners sign with; they trust none of these stages
LIMIT_S = 60.0
Body = dict[str, Any]


class LoopSite:
    """`changes`: by stage, keys of its configuration. Ada approves; Eve's key is listed and has no role."""

    def __init__(self, root: Path, store: Body | None = None, **changes: Body) -> None:
        self.root, self.store, self.changes = root, store, changes
        root.mkdir(exist_ok=True)
        self.keys = {stage: Ed25519Signer.create(root / f"{stage}.pem") for stage in STAGES}
        trusted = [key.trusted(stage) for stage, key in self.keys.items()]
        runner = base64.b64encode(RUNNER.public).decode()
        trusted.append(TrustedKey(public=runner, roles=["runner:cloud-runner"]))
        (root / "trusted_keys.json").write_text(json.dumps(TrustedKeys(keys=trusted).body()))
        signers = []
        for who in ("ada", "eve"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / who)], check=True)
            public = " ".join((root / f"{who}.pub").read_text().split()[:2])
            signers.append(f'{who} namespaces="{SSHSIG_NAMESPACE}" {public}\n')
        (root / "allowed_signers").write_text("".join(signers))
        (root / "approvers.json").write_text('{"roles": {"ada": ["approver"]}}')
        self.configure()

    def configure(self, **changes: Body) -> None:
        """Write all configurations, with some keys other than they were."""
        for stage, body in changes.items():
            self.changes[stage] = {**self.changes.get(stage, {}), **body}
        people = {name.partition(".")[0]: str(self.root / name) for name in ("allowed_signers", "approvers.json")}
        protected = {"policy": policy(rto_s=30.0).body(), "initial_generation": 1}
        lane = {"target_ref": "core/noop@v1", "target_env": "lab", "execution_plane": "runner-local"}
        routes = {"env": "lab", "dispatcher_routes": {"failover": {**lane, "runner_ref": "cloud-runner"}}}
        own: dict[str, Body] = {
            "decision": {"kind": "DecisionService", "protected": [protected], "vantages": {}, "people": people},
            "dispatch": {"kind": "DecisionDispatcher", "services": ["pg"], "routes": routes},
            "approval": {"kind": "DecisionConsumer", "policy": {"required": 1}, **people},
            "execution": {"kind": "DecisionExecutor", "mode": "dispatch", "protected": [protected], "runners": {},
                          "people": people},
        }  # fmt: skip
        self.homes = {stage: str(self.root / f"{stage}-home") for stage in STAGES}
        common = {"api_version": "hybridops/v1", "homes": self.homes}
        common |= {"store": self.store} if self.store else {}
        for stage, body in own.items():
            keys = {
                "signing_key": str(self.root / f"{stage}.pem"),
                "trusted_keys": str(self.root / "trusted_keys.json"),
            }
            self._write(stage, {**common, **keys, **body, **self.changes.get(stage, {})})
        self._write("control", {**common, "kind": "Control"})

    def _write(self, name: str, body: Body) -> None:
        self.config(name).write_text(json.dumps(body))

    def config(self, name: str) -> Path:
        """The configuration of a stage, or the administrator's (`control`)."""
        return self.root / f"{name}.json"

    @property
    def environment(self) -> dict[str, str]:
        """What lets the commands of a page find these configurations and Ada's key without being told."""
        named = {f"HYOPS_{stage.upper()}_CONFIG": str(self.config(stage)) for stage in STAGES}
        return {**named, "HYOPS_APPROVAL_KEY": str(self.root / "ada")}

    def records(self, stage: str, kind: str) -> FileRecordStore:
        """One kind of record in files."""
        return FileRecordStore(Path(self.homes[stage]) / "state" / kind)

    def read(self, stage: str, kind: str) -> list[Body]:
        """All of one kind, by id."""
        store = self.records(stage, kind)
        return [json.loads(store.read(name)) for name in store.ids()]

    def knew_clock(self, stage: str, behind_s: float) -> None:
        """The stage was sure of a time that is so far behind what the clock of this host shows now, in this boot."""
        clock = SystemClock()
        wall_s = clock.now().timestamp() - behind_s
        known = Known(boot_id=boot_id(), offset_s=wall_s - clock.monotonic(), wall_s=wall_s)
        KeptFile(Path(self.homes[stage]) / "state" / CLOCK_FILE, Known).save(known)

    def serve(self, names: str, check: Callable[[], bool], what: str, **instead: Callable[[], Any]) -> None:
        """Let these stages serve until `check` holds. `instead`: other daemons than those of their configuration."""

        async def body() -> None:
            with contextlib.ExitStack() as stack:
                tasks = []
                for name in names.split():
                    stack.enter_context(serving(name, self.config(name)))
                    made: Coroutine[Any, Any, None]
                    made = instead[name]() if name in instead else daemon(name)(self.config(name))
                    tasks.append(asyncio.create_task(made))
                try:
                    await until(lambda: check() or any(task.done() for task in tasks), what, LIMIT_S)
                    for task in tasks:
                        if task.done():
                            task.result()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(body())

    def home(self, stage: str) -> Home:
        """As the composition has it: it knows where its records are."""
        from hyops.services.config import placement_of

        found = placement_of(self.config(stage).read_bytes(), stage)
        assert found is not None
        return found
