"""One wired lab for all tests of the switch: kept up, broken by each test, put right before the next one.

Putting right costs a second or two, building anew about ten; so what cannot be put right is built anew, and said.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asyncinotify import Inotify, Mask

from hyops_lab import Lab, LabError, WaitError, ledger
from hyops_lab.approver import stand
from hyops_lab.drill import Drills
from hyops_lab.hosts import HOSTS, SITES
from hyops_lab.loop import CONTROL, EVIDENCE, Json, Loop
from hyops_lab.roles import client, etcd, postgres
from hyops_lab.waiting import PATIENCE_S, first_seen, until
from hyops_lab.wiring import everything
from hyops_lab.wiring.control import UNITS
from hyops_lab.wiring.service import MEMBERS

RUNS = "/var/lib/hyops/runner/runs"
ONPREM, CLOUD = postgres.PRIMARY, postgres.STANDBY
LIMIT_S = PATIENCE_S
TABLE = "inet hyops_edge"
SOCKET = "/run/hyops/fence-agent.sock"
STATUS_LIMIT_S = 5.0
AGENT = "hyops-fence-agent.service"
WRITTEN = Mask.CREATE | Mask.MOVED_TO | Mask.MODIFY | Mask.CLOSE_WRITE


@dataclass(frozen=True)
class Switch:
    """A switch that was asked for, seen from outside; `run_id` is known once its attempt is recorded."""

    decision_id: str
    source: str
    target: str
    request: Json

    @property
    def runner(self) -> str:
        """The host that runs it."""
        return MEMBERS[self.target]


class SwitchLab:
    """The lab, its loop and its drills, with the few things that every test of the switch does."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.loop = lab, Loop(lab)
        self.drills = Drills(lab)

    # --- from nothing, and from whatever a test left

    def build(self) -> None:
        """Down and up, with standing approvals and a client that writes."""
        self.lab.down()
        self.lab.up(wire=everything.wire)
        stand(self.lab)
        ledger.start(self.lab)

    def settle(self, primary: str | None = None) -> None:
        """A service at rest: no fault, all hosts on, one primary with its standby, nothing open, the client writes."""
        try:
            self._put_right(primary)
        except LabError as error:
            print(f"the lab could not be put right and is built anew: {error}")
            self.build()
            if primary not in (None, ONPREM):
                self.switchover()

    def _put_right(self, primary: str | None) -> None:
        lab = self.lab
        lab.heal()
        for site in SITES:
            lab.power_on_site(site)
        lab.exec(CONTROL, ["systemctl", "start", *UNITS.values()])
        for member in etcd.MEMBERS:  # a full disk makes etcd stop, in the end for good
            lab.exec(member, ["sh", "-c", "systemctl reset-failed etcd.service; systemctl start etcd.service"])
        for host in postgres.SERVERS:
            lab.exec(host, ["systemctl", "start", AGENT])
        if not any(r["statement"]["verdict"] == "standing" for r in self.loop.records("approval")):
            stand(lab)
        self.wait_closed()
        self.rejoin()
        lab.exec(client.HOST, ["systemctl", "stop", client.OLD_UNIT])
        ledger.start(lab)
        if primary not in (None, self.primary()):
            self.switchover()

    def wait_closed(self) -> None:
        """Return when every attempt has its outcome and that its evidence."""

        def closed() -> bool:
            attempts = {a["attempt_id"] for a in self.loop.records("attempt")}
            outcomes = {o["attempt_id"]: o["run_id"] for o in self.loop.records("outcome")}
            return attempts <= outcomes.keys() and all(self.evidence(run).exists() for run in outcomes.values())

        until(closed, what="every attempt to be closed", where=str(self.loop.folder("outcome")), timeout_s=LIMIT_S)

    def rejoin(self) -> None:
        """Both members up, one of them primary with an open edge, the other one streaming from it."""
        primary = self.primary()
        other = postgres.peer(primary)
        if self.told(other)["role"] != "standby":
            serving = self.told(primary, lambda said: whole(said) and said["role"] == "primary")
            generation = str(serving["generation"])
            argv = ["hyops", "fence", "rejoin", "--primary", primary, "--generation", generation, "--yes"]
            self.lab.exec(other, argv, timeout_s=LIMIT_S)
        self.drills.wait_streaming(primary)

    # --- what stands

    def status(self, host: str) -> Json:
        """What the fence agent of a host says on its socket; empty when it says nothing."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(STATUS_LIMIT_S)
                link.connect(str(self.lab.machine(host).path(SOCKET)))
                link.sendall(b'{"verb":"status"}\n')
                said: Json = json.loads(link.makefile().readline() or "{}")
        except (OSError, ValueError):  # nobody there, or it died with half of a line told
            return {}
        result: Json = said.get("result", {})
        return result

    def told(self, host: str, match: Callable[[Json], bool] | None = None) -> Json:
        """What the fence agent of a host says as soon as that matches; by default once it has read edge and database.

        One that boots, was killed or is too busy says nothing, `unknown`, or only half of it, and is asked again. What
        is returned is what matched: who asks a second time may be told something else.
        """
        last: list[Json] = [{}]

        def look() -> Json | None:
            last[0] = self.status(host)
            return last[0] if (match or whole)(last[0]) else None

        try:
            return first_seen(look, what=f"the agent of {host}", where=self.lab.log(host), timeout_s=LIMIT_S)
        except WaitError as error:
            raise WaitError(f"{error}; it said last {last[0]}") from error

    def primary(self) -> str:
        """The member that serves writes; an agent that was too busy to answer is asked again."""
        return first_seen(
            self._only_open, what="exactly one open edge",
            where=f"`hyops fence status` on {', '.join(postgres.SERVERS)}", timeout_s=LIMIT_S,
        )  # fmt: skip

    def _only_open(self) -> str | None:
        """One look at all members."""
        at = self._open_at()
        return at[0] if len(at) == 1 else None

    def _open_at(self) -> list[str]:
        return [h for h in postgres.SERVERS if self.lab.machine(h).is_on() and self.status(h).get("edge") == "open"]

    def lost(self, primary: str | None = None) -> set[int]:
        """Rows that were acknowledged to the client that follows DNS, and are not on the primary."""
        return set(ledger.count_loss(self.lab, primary or self.primary()).lost)

    def evidence(self, run_id: str) -> Path:
        """Where the bundle of a run lies on the control host."""
        return self.lab.machine(CONTROL).path(f"{EVIDENCE}/{run_id}")

    def count(self, kind: str) -> int:
        """How many records of a kind there are."""
        return sum(1 for _ in self.loop.records(kind))

    def wait_count(self, kind: str, count: int) -> None:
        """Return when there are so many records of a kind."""
        watch(self.loop.folder(kind), lambda: self.count(kind) >= count)

    def answer(self, host: str, *options: str) -> str:
        """What `dig` on a host is told by the authority."""
        argv = ["dig", "+short", "+time=1", "+tries=2", f"@{HOSTS['dns'].address}", *options]
        return self.lab.exec(host, argv).stdout.strip().strip('"')

    def runs(self, runner: str) -> set[str]:
        """The runs that were staged on a runner."""
        folder = self.lab.machine(runner).path(RUNS)
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    # --- a switch

    def ask(self) -> Switch:
        """Ask for a planned switch to the other member; returns when the request is there."""
        source = self.primary()
        self.drills.wait_streaming(source)
        decision_id = self.drills.request("failover" if source == ONPREM else "failback")
        return self.asked(decision_id, source)

    def asked(self, decision_id: str, source: str) -> Switch:
        """The request that a decision led to."""
        request = self.loop.wait("request", lambda r: r["source_decision_id"] == decision_id, LIMIT_S)
        return Switch(decision_id, source, postgres.peer(source), request)

    def attempt(self, switch: Switch) -> Json:
        """The attempt of a switch, once it is recorded."""
        return self.loop.wait("attempt", lambda a: a["source_dispatch_id"] == switch.request["dispatch_id"], LIMIT_S)

    def outcome(self, switch: Switch) -> Json:
        """How a switch ended, once that is known to the control host and its evidence is made."""
        outcome = self.loop.after(switch.decision_id, LIMIT_S)
        bundle = self.evidence(outcome["run_id"])
        until(bundle.exists, what="evidence", where=str(bundle), timeout_s=LIMIT_S)
        return outcome

    def switchover(self) -> Json:
        """A planned switch from beginning to end; it must succeed."""
        switch = self.ask()
        outcome = self.outcome(switch)
        if outcome["outcome"] != "succeeded":
            raise LabError(f"the switchover {outcome['outcome']}: {outcome.get('reason')}")
        ledger.wait_ack(self.lab, time.monotonic_ns(), HOSTS[switch.target].address)
        return outcome

    # --- the run on its runner

    def run_folder(self, runner: str, run_id: str) -> Path:
        """The folder of a run, as this machine sees it."""
        return self.lab.machine(runner).path(f"{RUNS}/{run_id}")

    def journal(self, runner: str, run_id: str) -> list[Json]:
        """What the runner has written down of a run, complete lines only."""
        try:
            data = (self.run_folder(runner, run_id) / "journal.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in data.split(b"\n")[:-1]]

    def wait_journal(self, runner: str, run_id: str, records: int) -> None:
        """Return as soon as the runner's journal has so many records, by inotify on its files."""
        folder = self.run_folder(runner, run_id)
        watch(folder.parent, folder.exists)
        watch(folder, lambda: len(self.journal(runner, run_id)) >= records)

    def wait_step(self, runner: str, run_id: str, kind: str, step: str) -> None:
        """Return as soon as the journal has this step's `intent` or `outcome`."""
        folder = self.run_folder(runner, run_id)
        watch(folder.parent, folder.exists)
        watch(folder, lambda: (kind, step) in steps_of(self.journal(runner, run_id)))

    def wait_result(self, runner: str, run_id: str) -> Json:
        """The runner's own result, once it is written."""
        folder = self.run_folder(runner, run_id)
        watch(folder, (folder / "result.json").exists)
        result: Json = json.loads((folder / "result.json").read_bytes())
        return result

    def kill_job(self, runner: str, run_id: str) -> bool:
        """kill -9 of the job's process; False when it had ended before."""
        pid = (self.run_folder(runner, run_id) / "alive").read_text()  # written before its journal is opened
        dead = self.lab.exec(runner, ["kill", "-9", pid], check=False).returncode != 0
        return not dead and not (self.run_folder(runner, run_id) / "result.json").exists()

    def next_runner(self) -> str:
        """The host that a switch from here would run on."""
        return MEMBERS[postgres.peer(self.primary())]

    def wait_job_ended(self, runner: str, run_id: str) -> None:
        """Return when the job's unit runs no more, whatever its end was."""
        argv = ["systemctl", "is-active", "--quiet", f"hyops-run@{run_id}.service"]
        until(
            lambda: self.lab.exec(runner, argv, check=False).returncode != 0,
            what="the end of the job", where=self.lab.log(runner), timeout_s=LIMIT_S,
        )  # fmt: skip

    # --- proofs that many tests share

    def collected_once(self, attempt: Json) -> Json:
        """Wait for the outcome and the evidence of an attempt; there must be one of each. Returns the outcome."""
        outcome = self.loop.wait("outcome", lambda o: o["attempt_id"] == attempt["attempt_id"], LIMIT_S)
        bundle = self.evidence(outcome["run_id"])
        until(bundle.exists, what="evidence", where=str(bundle), timeout_s=LIMIT_S)
        same = [a for a in self.loop.records("attempt") if a["source_execution_id"] == attempt["source_execution_id"]]
        ends = [o for o in self.loop.records("outcome") if o["attempt_id"] == attempt["attempt_id"]]
        assert (len(same), len(ends)) == (1, 1)
        return outcome

    def agent_log(self, host: str, since_s: float) -> str:
        """What the fence agent of a host has logged in the last `since_s` seconds."""
        since = f"--since=-{since_s:.3f}s"
        argv = ["journalctl", "--no-pager", "-o", "cat", "-u", AGENT, since]
        return self.lab.exec(host, argv).stdout

    def lead_quorum(self, host: str) -> None:
        """Make a member the leader of the quorum."""
        self.etcd_healthy()
        until(
            lambda: self._leads(host),
            what=f"{host} to lead the quorum", where=self.lab.log(host), timeout_s=LIMIT_S,
        )  # fmt: skip

    def _leads(self, host: str) -> bool:
        """Whether it does; if another member does, that one is asked to hand over, which an election may forestall."""
        ctl = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints"]
        urls = ",".join(map(etcd.client_url, etcd.MEMBERS))
        said = self.lab.exec("client", [*ctl, urls, "endpoint", "status", "-w", "json"], check=False).stdout
        found = {one["Endpoint"]: one["Status"] for one in json.loads(said or "[]")}
        members = {url: status["header"]["member_id"] for url, status in found.items()}
        mine, leader = members.get(etcd.client_url(host)), found.get(etcd.client_url(host), {}).get("leader")
        at = [url for url, member in members.items() if member == leader]
        if mine is not None and leader != mine and at:
            self.lab.exec("client", [*ctl, at[0], "move-leader", f"{mine:x}"], check=False)
        return mine is not None and leader == mine

    def etcd_healthy(self) -> None:
        """Return when all three members of the quorum answer with a leader."""
        urls = ",".join(etcd.client_url(member) for member in etcd.MEMBERS)
        argv = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", urls, "--command-timeout=2s", "endpoint", "health"]
        until(
            lambda: self.lab.exec("client", argv, check=False).returncode == 0,
            what="three healthy members of etcd", where=self.lab.log("witness"), timeout_s=LIMIT_S,
        )  # fmt: skip


def whole(said: Json) -> bool:
    """Whether an agent has read all that it tells: a database that is up and too busy is told without its facts."""
    unread = "unknown" in (said.get("edge", "unknown"), said.get("role", "unknown"))
    return not unread and said.get("facts", {}).get("database") == "answers"


def steps_of(journal: list[Json]) -> list[tuple[str, str]]:
    """`(kind, step)` of each record about a step."""
    return [(entry["kind"], entry["body"]["step"]) for entry in journal if "step" in entry["body"]]


def handed_over(outcome: Json, source: str) -> bool:
    """Whether the old primary itself says where it ended, as in every planned switch, and its fence is proved.

    Which proof came first is a matter of time: it has given up its lease too, and what it and a probe say takes longer
    to ask on a busy machine than the lease's margin lasts.
    """
    (fence,) = (step["outputs"] for step in outcome["result"]["steps"] if step["step_id"] == "fence")
    proved = fence["receipt"]["receipt_class"] in ("observed", "lease-expired")
    return proved and bool(fence["demotion"]["host"] == source)


def watch(folder: Path, done: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
    """Return when `done()` holds, looking whenever something is written in `folder`."""
    deadline = time.monotonic() + timeout_s
    with Inotify(sync_timeout=0.5) as inotify:
        until(folder.exists, what=str(folder), where=str(folder.parent), timeout_s=timeout_s, pause_s=0.01)
        inotify.add_watch(folder, WRITTEN)
        while not done():
            if time.monotonic() > deadline:
                raise WaitError(f"waited {timeout_s:g} s; see {folder}")
            inotify.sync_get()


def psql_argv(lab: Lab, address: str, statement: str | None, timeout_s: int = int(LIMIT_S)) -> list[str]:
    """A psql of the application at an address: for one statement, or to be fed."""
    dsn = f"host={address} user=app dbname=app connect_timeout={timeout_s}"
    argv = ["env", f"PGPASSWORD={lab.secret('app')}", "psql", "-XAtq", dsn]
    return argv if statement is None else [*argv, "-c", statement]
