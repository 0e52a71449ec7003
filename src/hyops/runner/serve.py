"""The runner's side of a dispatch: started per connection, frames over stdin and stdout (RUN-3 to RUN-7, RUN-11).

It checks what is cheap and belongs to the runner as a whole: epochs, one run per service, sizes, room. Whether a run
may make effects is judged by the job itself (`admission`), before its first act. It trusts nothing it reads and can
change nothing but run folders. Standard library only: it is started anew for every connection.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from hyops.errors import (
    HyopsError,
    PrerequisiteError,
    RecordError,
    RunnerUnreachableError,
    UsageError,
)
from hyops.model import wire
from hyops.runner import (
    boot,
    decided,
    door,
    gc,
    greeting,
    killing,
    launch,
    offer,
    orders,
    reopen,
    room,
    staging,
    starting,
    telling,
    versions,
    ways,
)
from hyops.runner import folders as disk
from hyops.runner.config import DEFAULT, RunnerConfig
from hyops.runner.folders import Folders, read_file, write_file
from hyops.runner.telling import run_status

VERBS = (
    *("hello", "offer", "ship", "start", "attach", "status"),
    *("jobs", "resume", "cancel", "collect", "collected", "gc"),
    *("order", "orders", "taken"),
)
LOG_RETURN_MAX = 8 * 1024 * 1024
Reply = tuple[dict[str, Any], bytes]
JudgeOf = Callable[[RunnerConfig], orders.Judge]


class Server:
    """Answers one peer, one request after the other. `judge_of` knows whose standby orders count; it loads more."""

    def __init__(self, config: RunnerConfig, source: BinaryIO, sink: BinaryIO, judge_of: JudgeOf | None = None) -> None:
        self._config, self._in, self._out, self._judge_of = config, source, sink, judge_of
        self._folders = Folders(config.root, config.secrets_dir)
        self._folders.make()
        self._over = False
        self._staging = staging.Staging(config, self._folders)
        self._verbs: dict[str, Callable[[dict[str, Any], bytes], Reply | None]] = {
            name: getattr(self, f"_{name}") for name in VERBS
        }

    def run(self) -> int:
        """Answer until the peer is gone, or says nothing in the middle of a stream."""
        while not self._over and (request := self._next()) is not None:
            header, payload = request
            try:
                verb = self._verbs.get(str(header.get("verb")))
                if verb is None:
                    raise UsageError(f"no verb {header.get('verb')!r}")
                versions.refuse_protocol(header, self._config.runner_ref)
                reply = verb(header, payload)
            except (HyopsError, OSError) as exc:
                self._refuse(exc)
            except telling.UNREADABLE as exc:  # a file of one run, or the request: the next request may be sound
                self._refuse(telling.failure(header, exc))
            else:
                if reply is not None:
                    self._send({"ok": True, **reply[0]}, reply[1])
        return 0

    def _next(self) -> tuple[dict[str, Any], bytes] | None:
        line = self._in.readline(wire.HEADER_MAX + 1)
        if not line:
            return None
        header, length = wire.header_of(line)
        payload = self._in.read(length)
        return (header, payload) if len(payload) == length else None

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        self._out.write(wire.encode(header, payload))
        self._out.flush()

    def _refuse(self, exc: HyopsError | OSError) -> None:
        exc = room.named(exc, self._config.runner_ref, self._config.root)
        self._send({"ok": False, "error": exc.as_json()})

    def _hello(self, header: dict[str, Any], payload: bytes) -> Reply:
        return greeting.said(self._config, self._folders, ntp=header.get("ntp") is True), b""

    def _offer(self, header: dict[str, Any], payload: bytes) -> Reply:
        """What of a bundle is to be shipped."""
        return {"missing": self._staging.offer(str(header.get("run_id")), payload)}, b""

    def _ship(self, header: dict[str, Any], payload: bytes) -> Reply | None:
        """Take the stream in that follows the frame. A refusal is said at once; what still comes is read away."""
        with staging.watched() as told:
            stream = wire.Chunks(self._in, told)
            try:
                came = self._staging.ship(str(header.get("run_id")), stream)
            except (HyopsError, OSError) as exc:
                self._refuse(exc)
                try:
                    stream.drain()
                except RunnerUnreachableError:
                    self._over = True
                return None
        return {"files": came}, b""

    def _start(self, header: dict[str, Any], payload: bytes) -> Reply:
        spec_bytes, secret_bytes = offer.parted(payload, header.get("spec_bytes"))
        return {"started": starting.start(self._config, self._folders, spec_bytes, offer.secrets(secret_bytes))}, b""

    def _order(self, header: dict[str, Any], payload: bytes) -> Reply:
        """Keep a standby order that verifies; whoever takes over judges it once more."""
        if self._judge_of is None:
            raise PrerequisiteError(f"{self._config.runner_ref} cannot verify orders, so it keeps none")
        return {"order": orders.keep(self._config, self._folders, payload, self._judge_of(self._config))}, b""

    def _orders(self, header: dict[str, Any], payload: bytes) -> Reply:
        return {"orders": orders.held(self._folders)}, b""

    def _taken(self, header: dict[str, Any], payload: bytes) -> Reply:
        """What a takeover ran: the records that no control host has."""
        return {}, orders.taken(self._folders, str(header.get("run_id")))

    def _resume(self, header: dict[str, Any], payload: bytes) -> Reply:
        """Start the job of an interrupted run again, with what lies here; secrets that are gone stay gone.

        A run that failed after its promotion is open again by that; every other finished one is refused.
        """
        run_id, epoch = str(header.get("run_id")), header.get("epoch")
        folder, status = self._folders.run(run_id), run_status(self._folders, run_id)
        if status["state"] == "absent":
            raise RecordError(f"no run {run_id} here")
        if type(epoch) is not int:
            raise UsageError(f"epoch {epoch!r}")
        self._folders.refuse_old(telling.service_of(status), epoch=epoch, generation=2**53)
        known = decided.size(folder / "journal.jsonl")
        with self._folders.locked():
            if status["state"] != "running":
                versions.refuse_journal(folder)
            if (state := self._folders.state(run_id)) == "finished":
                door.refuse_busy(self._config, self._folders)
                reopen.ask(self._folders, run_id, by=str(header.get("by", "")), reason=str(header.get("reason", "")))
            elif state != "running":
                telling.refuse_beside_open(self._folders, telling.service_of(status), but=run_id)
        if (folder / disk.REOPEN).exists():
            launch.launch(self._config, self._folders, run_id)
            decided.reopened(folder, known, self._config.start_wait_s)
        elif status["state"] in ("interrupted", "staged"):
            launch.launch(self._config, self._folders, run_id)
            decided.admitted(folder, known, self._config.start_wait_s, decided.probing_s(self._config.options))
        return {"status": run_status(self._folders, run_id)}, b""

    def _attach(self, header: dict[str, Any], payload: bytes) -> None:
        from hyops.runner.follow import follow

        offset = header.get("offset", 0)
        if type(offset) is not int or not 0 <= offset < 2**53:
            raise UsageError(f"offset {offset!r}")

        def emit(stream: str, at: int, body: dict[str, Any]) -> None:
            self._send({"ok": True, "event": {"stream": stream, "offset": at, "body": body}})

        run_id = str(header.get("run_id"))
        self._folders.run(run_id)
        wait_s = self._config.start_wait_s if header.get("follow", True) is True else None
        follow(self._folders, run_id, offset, emit, stop_fd=self._in.fileno(), start_wait_s=wait_s)

    def _status(self, header: dict[str, Any], payload: bytes) -> Reply:
        return {"status": run_status(self._folders, str(header.get("run_id")))}, b""

    def _jobs(self, header: dict[str, Any], payload: bytes) -> Reply:
        return {"jobs": telling.all_statuses(self._folders)}, b""

    def _cancel(self, header: dict[str, Any], payload: bytes) -> Reply:
        run_id, epoch, reason = str(header.get("run_id")), header.get("epoch"), str(header.get("reason"))[:1000]
        folder, state = self._folders.run(run_id), self._folders.state(run_id)
        if state == "absent":
            raise RecordError(f"no run {run_id} here")
        status = run_status(self._folders, run_id)
        if state == "finished" and status.get("outcome") != "cancelled":
            raise PrerequisiteError(
                f"run {run_id} is finished ({status.get('outcome')}): there is nothing to cancel",
                hint="`hyops run show` says what it did; to move back ask for a switch with `hyops decision request`",
            )
        if state == "finished":  # an earlier cancellation whose answer was lost
            return {"status": status}, b""
        if type(epoch) is not int:
            raise UsageError(f"epoch {epoch!r}")
        self._folders.refuse_old(telling.service_of(status), epoch=epoch, generation=2**53)
        if state != "running" or header.get("force") is True:  # a new job will have to write on
            versions.refuse_journal(folder)
        write_file(folder / "cancel.json", json.dumps({"reason": reason, "epoch": epoch}).encode())
        if header.get("force") is True and not killing.kill(folder):
            raise HyopsError(f"{run_id}: processes of the job could not be killed", hint="look at the runner")
        if self._folders.state(run_id) == "running":
            launch.ask_to_stop(folder)
        done = decided.closed(self._config, self._folders, run_id)
        status = run_status(self._folders, run_id)
        cancelled = status.get("outcome") == "cancelled"
        status.setdefault("facts", {})["cancel"] = "requested" if not done else "done" if cancelled else "too-late"
        return {"status": status}, b""

    def _collect(self, header: dict[str, Any], payload: bytes) -> Reply:
        run_id = str(header.get("run_id"))
        folder, state = self._folders.run(run_id), self._folders.state(run_id)
        if state != "finished":
            raise room.no_result(folder, state)
        result = read_file(folder / "result.json", wire.PAYLOAD_MAX)
        journal = read_file(folder / "journal.jsonl", disk.FILE_MAX)
        log = b""
        if (folder / "log").exists():
            size = os.lstat(folder / "log").st_size
            log = read_file(folder / "log", LOG_RETURN_MAX, max(0, size - LOG_RETURN_MAX))
        if len(result) + len(journal) + len(log) > wire.PAYLOAD_MAX:
            log = b""
        if len(result) + len(journal) > wire.PAYLOAD_MAX:
            raise PrerequisiteError(
                f"run {run_id}: its result of {len(result)} bytes and its journal of {len(journal)} are over "
                f"{wire.PAYLOAD_MAX}, more than one answer holds",
                hint=f"look at both in {folder} on the runner; `hyops run reconcile` says for hyops how it ended",
            )
        return {"result_bytes": len(result), "journal_bytes": len(journal)}, result + journal + log

    def _collected(self, header: dict[str, Any], payload: bytes) -> Reply:
        """The peer has verified the return: from now on the run's age counts."""
        gc.note_collected(self._folders, str(header.get("run_id")), str(header.get("result_digest")), now=time.time())
        return {}, b""

    def _gc(self, header: dict[str, Any], payload: bytes) -> Reply:
        """Remove the runs that may go, or only say which; every run is answered for."""
        if type(dry_run := header.get("dry_run")) is not bool:
            raise UsageError(f"dry_run {dry_run!r}")
        keep_s, remember_s = self._config.keep_finished_s, self._config.remember_reaped_s
        verdicts = gc.sweep(self._folders, now=time.time(), keep_s=keep_s, remember_s=remember_s, dry_run=dry_run)
        kept = gc.sweep_cache(
            self._folders,
            now=time.time(),
            bytes_max=self._config.cache_bytes_max,
            keep_s=self._config.cache_keep_s,
            dry_run=dry_run,
        )
        if not dry_run:
            ways.sweep(self._config)
        return {"dry_run": dry_run, "runs": gc.as_json(verdicts), "cache": asdict(kept)}, b""


def main(words: list[str], judge_of: JudgeOf | None = None) -> int:
    """`hyops runner-serve [--config FILE] [--resume-all]`."""
    path, resume = DEFAULT, False
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--config" and rest:
            path = Path(rest.pop(0))
        elif word == "--resume-all":
            resume = True
        else:
            print(f"hyops: runner-serve: unknown word {word!r}", file=sys.stderr)  # noqa: T201  # the answer itself
            return 2
    try:
        config = RunnerConfig.load(path) if resume else greeting.configured(path)
        if resume:
            return boot.run(config)
        return Server(config, sys.stdin.buffer, sys.stdout.buffer, judge_of).run()
    except BrokenPipeError:
        return 0
    except HyopsError as exc:
        sys.stdout.buffer.write(wire.encode({"ok": False, "error": exc.as_json()}))
        sys.stdout.buffer.flush()
        return exc.exit_code
