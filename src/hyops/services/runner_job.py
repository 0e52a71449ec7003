"""The job process of one run: admit, execute, sign the result (RUN-4, RUN-5, RUN-6, INV-7).

It may be killed at any line. Started again it finds in the journal what it had done; a second instance finds the lock
taken and leaves. Whoever wants to know how it stands reads its files.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyops._version import __version__
from hyops.engine import safety
from hyops.engine.journal import Journal, JournalFullError
from hyops.engine.redact import Redactor
from hyops.engine.result import RunFacts, result_of
from hyops.engine.run import Run, SuspendedError
from hyops.engine.state import CANCELLED_EXIT, Finish
from hyops.errors import HyopsError, PrerequisiteError, RefusedError, SecretsError, UnsafePlanError
from hyops.model import canonical
from hyops.model.base import iso_utc
from hyops.model.dsse import Signs
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.ports.clock import Clock
from hyops.ports.driver import Driver
from hyops.ports.signer import ApprovalVerifier, Verifier
from hyops.runner import bundle, decided, killing, reopen, room, versions
from hyops.runner.admission import admit
from hyops.runner.bases import generations
from hyops.runner.config import DEFAULT, RunnerConfig
from hyops.runner.folders import Folders, has_ended, lock_alive, read_file, write_file
from hyops.runner.takeover_rules import refuse_a_strangers_beginning
from hyops.runner.ways import SWEEP
from hyops.services.access_ends import AccessEnds, sweep_left
from hyops.services.clean_streams import CleanStreams
from hyops.services.job_access import JobAccess
from hyops.services.job_facts import bare_facts, boot_id
from hyops.services.job_log import JobLog
from hyops.services.job_secrets import Opened, named_secrets
from hyops.services.loading import loading
from hyops.services.own_trust import refuse_own_trust, rules_of
from hyops.services.run_access import ResolveAccess

SPEC_MAX = 4 * 1024 * 1024


@dataclass(frozen=True)
class JobParts:
    """What serves the job's ports; `drivers` is called once the spec has been read."""

    clock: Clock
    signer: Signs
    verifier: Verifier
    approvals: ApprovalVerifier
    drivers: Callable[[RunSpec], Mapping[str, Driver]]
    access: ResolveAccess
    at_boundary: Callable[[str], None] = lambda name: None
    opened: Opened = lambda handed, env: handed
    ends: AccessEnds | None = None


def main(words: list[str], parts: Callable[[RunnerConfig], JobParts]) -> int:
    """`hyops runner-job [--config FILE] RUN_ID`: 0 when the run is closed, or runs in another process.

    With `--sweep` instead of a run it closes what ended runs left open at the edge.
    """
    path = Path(words[1]) if words[:1] == ["--config"] and len(words) == 3 else DEFAULT
    if len(words) not in (1, 3):
        return 2
    try:
        config = RunnerConfig.load(path)
        killing.adopt_orphans()
        with CleanStreams() as streams:
            if words[-1] == SWEEP:
                return _told(SWEEP, lambda: _swept(config, _made(parts, config)))
            return _told(words[-1], lambda: run_job(config, words[-1], _made(parts, config), streams.guard))
    except HyopsError as exc:
        print(f"hyops: {words[-1]}: {exc.message}; next: {exc.hint}", file=sys.stderr)  # noqa: T201  # no log is open
        return exc.exit_code


def _made(parts: Callable[[RunnerConfig], JobParts], config: RunnerConfig) -> JobParts:
    with loading():
        return parts(config)


def _swept(config: RunnerConfig, parts: JobParts) -> int:
    if parts.ends is not None:
        sweep_left(parts.ends, Folders(config.root, config.secrets_dir))
    return 0


def _told(run_id: str, work: Callable[[], int]) -> int:
    try:
        with room.translated():
            return work()
    except HyopsError as exc:  # within the streams' guard: a message may quote what a driver said
        print(f"hyops: {run_id}: {exc.message}; next: {exc.hint}", file=sys.stderr)  # noqa: T201  # no log is open
        return exc.exit_code


def run_job(
    config: RunnerConfig, run_id: str, parts: JobParts, guard: Callable[[Redactor], None] = lambda redactor: None
) -> int:
    """Bring a run to its end, from wherever it stands. `guard` is told what to keep out of the process's own streams.

    Secrets go when it has ended or cannot go on; a run that was only stopped (its host goes down) keeps them in memory.
    """
    folders = Folders(config.root, config.secrets_dir)
    folders.make()
    folder = folders.run(run_id)
    alive = lock_alive(folder)
    if alive is None or has_ended(folder):
        return 0
    versions.refuse_journal(folder)  # before it is opened, which would mend its end; what it had is kept for later
    stopped = False
    try:
        with Journal(folder / "journal.jsonl") as journal, JobLog(folder / "log", parts.clock) as log:
            job = _Job(config, folders, run_id, parts, journal, log.write, guard)
            asyncio.run(job.live())
            if has_ended(folder):  # it was asked to go on, and may not
                return 0
            result = result_of(job.facts, journal, parts.signer)
            write_file(folder / "result.json", result.encoded())
        if result.outcome is Outcome.SUCCEEDED and not job.keep:
            bundle.remove(folders, run_id)
    except SuspendedError:
        stopped = True
        raise
    finally:
        if not stopped:
            folders.drop_secrets(run_id)
    return 0


class _Job:
    """One process's life with one run."""

    def __init__(
        self,
        config: RunnerConfig,
        folders: Folders,
        run_id: str,
        parts: JobParts,
        journal: Journal,
        log: Callable[[str], None],
        guard: Callable[[Redactor], None],
    ) -> None:
        self._config, self._folders, self._run_id = config, folders, run_id
        self._parts, self._journal, self._write, self._guard = parts, journal, log, guard
        self._secrets: Mapping[str, str] = {}
        self._redactor = Redactor({})
        self._folder = folders.run(run_id)
        self._spec_bytes = read_file(self._folder / "spec.json", SPEC_MAX)
        self.facts = bare_facts(self._spec_bytes, run_id, config.runner_ref)
        self.keep = False
        self._access = JobAccess(parts.access, parts.ends, config, folders, run_id, self._log, self._append)

    async def live(self) -> None:
        """Open or resume, then execute; ends with a closed journal."""
        opened = self._journal.entries[0].body if self._journal.entries else None
        if opened is not None and opened["spec_digest"] != canonical.digest_bytes(self._spec_bytes):
            raise UnsafePlanError(f"{self._run_id}: spec.json is not what this run was opened with")
        if opened is not None and not opened["admitted"]:
            return await self._close_refused(opened["error"])
        try:
            spec = self._read_spec()
            self._take_secrets(spec, fresh=opened is None)
            drivers = self._parts.drivers(spec)
            approved_by = self._admit(spec, drivers) if opened is None else []
            access = await self._access.reached(spec) if opened is None else None
            unpacked = bundle.unpack(self._folders, self._run_id, spec.plan.bundle)
            bases = generations(unpacked, spec.plan)
        except RefusedError as exc:
            if opened is not None:
                raise
            self._append("run-opened", self._opening(admitted=False, error=exc.as_json()))
            return await self._close_refused(exc.as_json())
        except SecretsError as exc:
            if reopen.asked(self._folder) is None:
                raise
            return reopen.refuse(self._folder, PrerequisiteError(exc.message, hint=exc.hint))
        os.environ["HYOPS_ENV"] = spec.plan.env
        if opened is None:
            assert access is not None, "a run opens with the access that was resolved for it"
            shown = ("id", "title", "phase", "optional", "module_ref")
            self._append(
                "run-opened",
                self._opening(
                    admitted=True,
                    approved_by=approved_by,
                    blueprint_ref=spec.plan.blueprint_ref,
                    decision_type=str(spec.plan.decision_type),
                    occasion=str(spec.occasion),
                    access=access.body(),
                    **({"states": bases} if bases else {}),
                    steps=[{k: v for k, v in s.body().items() if k in shown} for s in spec.plan.steps],
                ),
            )
            self._log(f"{self._run_id}: admitted on {self._config.runner_ref}")
        elif self._journal.entries[-1].kind == "run-closed":
            if not await self._reopened(spec, drivers):
                return None
        else:
            reopen.done(self._folder)  # a crash came between the record and this
            self._append("resumed", {"boot_id": boot_id(), "pid": os.getpid(), "hyops_version": __version__})
            self._log(f"{self._run_id}: resumed")
        if opened is not None:
            await self._access.again(spec)
        await self._execute(spec, drivers)
        return None

    async def _reopened(self, spec: RunSpec, drivers: Mapping[str, Driver]) -> bool:
        """Reopen a closed run if somebody asked for it; False when it may not go on. Without a request it stays closed.

        The result of the end before is set aside first: after a crash in between the job is asked again, and a journal
        that is closed makes the same result again.
        """
        if (asked := reopen.asked(self._folder)) is None:
            return True
        try:
            await self._run(spec, drivers).may_go_on()
        except RefusedError as exc:
            self._log(f"{self._run_id}: does not go on: {exc.message}")
            reopen.refuse(self._folder, exc)
            return False
        self._parts.at_boundary("reopen:before")
        kept = reopen.keep_result(self._folder)
        self._parts.at_boundary("reopen:kept")
        body = {**asked, "kept": kept, "boot_id": boot_id(), "pid": os.getpid(), "hyops_version": __version__}
        self._append("reopened", body)
        self._parts.at_boundary("reopen:after")
        reopen.done(self._folder)
        self._log(f"{self._run_id}: goes on after its end, asked for by {asked['by'] or 'nobody named'}")
        return True

    def _run(self, spec: RunSpec, drivers: Mapping[str, Driver]) -> Run:
        return Run(
            spec,
            self._journal,
            drivers,
            self._parts.clock,
            self._secrets,
            self._log,
            on_outputs=lambda outputs: self._remember(spec, outputs),
            at_boundary=self._parts.at_boundary,
            before_close=self._access.ended,
        )

    async def _execute(self, spec: RunSpec, drivers: Mapping[str, Driver]) -> None:
        run = self._run(spec, drivers)
        for entry in self._journal.entries:
            if entry.kind == "outcome":
                self._remember(spec, entry.body.get("outputs", {}))
        if self._folders.seen(spec.service).generation > spec.generation + 1:
            run.cancel("the service has moved on to a later generation")
        self._cancel_if_asked(run)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._stop(run))
        await run.execute()

    def _stop(self, run: Run) -> None:
        """SIGTERM with a cancellation beside it ends the run; without one the host goes down, and the run resumes."""
        if not self._cancel_if_asked(run):
            run.suspend()

    def _cancel_if_asked(self, run: Run) -> bool:
        """Whether a cancellation lies beside the run."""
        if (reason := decided.cancelled(self._folder)) is None:
            return False
        run.cancel(reason)
        return True

    def _read_spec(self) -> RunSpec:
        spec = RunSpec.read(self._spec_bytes, source=f"spec of {self._run_id}")
        if spec.run_id != self._run_id:
            raise UnsafePlanError(f"the spec of {self._run_id} says {spec.run_id}")
        self.keep = bool(spec.keep)
        digest = spec.plan.digest()
        self.facts = RunFacts(self._run_id, self._config.runner_ref, spec.service, spec.generation, digest, spec.plan)
        return spec

    def _take_secrets(self, spec: RunSpec, *, fresh: bool) -> None:
        """The values that the plan names; from now on nothing that is written has them in it."""
        handed, cancelled = self._folders.secrets(self._run_id), (self._folder / "cancel.json").exists()
        self._secrets = named_secrets(spec.plan, handed, self._parts.opened, fresh=fresh, cancelled=cancelled)
        self._redactor = Redactor(self._secrets)
        self._guard(self._redactor)

    def _log(self, line: str) -> None:
        self._write(self._redactor.text(line))

    def _admit(self, spec: RunSpec, drivers: Mapping[str, Driver]) -> list[str]:
        """Everything that must hold before the first effect, except what preflight asks the world (GATE-1)."""
        if (why := decided.cancelled(self._folder)) is not None:  # perhaps while a job before asked
            raise PrerequisiteError(f"cancelled before it began: {why}", hint="nothing was touched", cancelled=why)
        rules = rules_of(self._config, self._parts.verifier, self._parts.approvals)
        if spec.execution.takeover is not None:  # no stage has counted these approvals: by whose lists do we?
            refuse_own_trust(self._config)
        seen = self._folders.seen(spec.service).generation
        approved_by = admit(spec, rules, now=self._parts.clock.now(), generation_seen=seen)
        refuse_a_strangers_beginning(spec)
        safety.check(spec.plan, drivers.keys())
        for step in spec.plan.steps:
            drivers[step.module_ref].inputs.of(step.inputs, source=f"step {step.id}")
        self._folders.take(spec.service, epoch=spec.epoch, generation=spec.generation)
        return approved_by

    def _remember(self, spec: RunSpec, outputs: Mapping[str, Any]) -> None:
        """A generation that a step has raised is refused from now on by this runner too (GEN-1)."""
        generation = outputs.get("generation_after")
        if type(generation) is int:
            try:
                self._folders.raise_seen(spec.service, generation=min(generation, spec.generation + 1))
            except PrerequisiteError as exc:
                raise JournalFullError(exc.message) from exc

    def _opening(self, **more: object) -> dict[str, object]:
        return {
            "run_id": self._run_id,
            "runner_ref": self._config.runner_ref,
            "spec_digest": canonical.digest_bytes(self._spec_bytes),
            "plan_digest": self.facts.plan_digest,
            "service": self.facts.service,
            "generation": self.facts.generation,
            "boot_id": boot_id(),
            "pid": os.getpid(),
            "hyops_version": __version__,
            "journal_format": versions.JOURNAL_FORMAT,
            **more,
        }

    async def _close_refused(self, error: Mapping[str, Any]) -> None:
        if self._journal.entries[-1].kind != "run-closed":
            reason = f"{error['message']}; next: {error['hint']}"[:4000]
            finish = Finish(Outcome.REFUSED, int(error["exit_code"]), reason)
            if (cancelled := error["facts"].get("cancelled")) is not None:
                finish = Finish(Outcome.CANCELLED, CANCELLED_EXIT, str(cancelled))
            finish = await self._access.ended(finish)
            body = {"outcome": str(finish.outcome), "exit_code": finish.exit_code, "reason": finish.reason}
            self._append("run-closed", {**body, "error": error}, essential=True)
            self._log(f"{self._run_id}: {finish.outcome}: {error['message']}")

    def _append(self, kind: str, body: Mapping[str, Any], *, essential: bool = False) -> None:
        last = self._journal.entries[-1].t if self._journal.entries else 0.0
        clean = self._redactor.value(body)
        self._journal.append(kind, clean, at=iso_utc(self._parts.clock.now()), t=last, essential=essential)
