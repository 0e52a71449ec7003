"""The takeover drill: site and control host die at once, two people and the surviving runner finish the switch (INV-9).

From the kill to the client's first write nothing of the loop exists: the approvers' keys are on no host of the lab, and
what they sign is carried by hand. Afterwards control comes back, as it was or with its records gone, and must learn
of the run from the runner, without running anything again.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hyops.adapters.approval_ssh import sign
from hyops.model.approval import Approval
from hyops.model.takeover import StandbyOrder
from hyops.services.takeover_paper import granted, statement_for
from hyops_lab import ledger
from hyops_lab.approver import stand
from hyops_lab.capture import FIRST_SYN_S, Capture, captured
from hyops_lab.drill import Drills, Trial
from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS, SITES
from hyops_lab.loop import CONTROL, Json
from hyops_lab.packets import Packets
from hyops_lab.roles import postgres
from hyops_lab.waiting import PATIENCE_S, until
from hyops_lab.wiring import everything
from hyops_lab.wiring.common import STAGE_USERS
from hyops_lab.wiring.control import KINDS
from hyops_lab.wiring.keys import APPROVER, PEOPLE
from hyops_lab.wiring.service import MEMBERS

RUNNER_USER = "hyops"
VALID_S = 1800.0
PAPERS = "/run/hyops-papers"
KIND = "takeover"
SURVIVORS = [h.name for h in HOSTS.values() if h.site != HOSTS[postgres.PRIMARY].site and h.name != CONTROL]
FENCE_S = 4.5  # the fence tries the old host beside the lease, 2.25 s at most: openings at 0, 1 and 2 s, the next at 4
QUORUM_S = 5 * FIRST_SYN_S  # three processes of the runner, and the new primary's agent that watches and promotes
LOOK_S = FIRST_SYN_S  # after the cutover, one look at the old address: it acknowledges nothing
LIMITS_S = {"tcp 22": FENCE_S, "tcp 5432": FENCE_S + LOOK_S, "tcp 2379": QUORUM_S}
"""For how long the blueprint tries each port of the dead side before the first write; it has no business at another.

Every try ends by its own limit, and none needs an answer: of the quorum's members whoever does answer will do. Whoever
tries for longer waits for the dead side.
"""
WAITED_MAX_S = FENCE_S + LOOK_S + QUORUM_S  # all in all: the fence has both of its tries at once


class TakeoverDrill:
    """Takeovers in one lab that is up and wired, with its standing approvals and its writing client."""

    def __init__(self, drills: Drills) -> None:
        self.drills, self.lab = drills, drills.lab
        self.runner = MEMBERS[postgres.STANDBY]
        self.killed_ns = 0

    def prepared(self) -> None:
        """Return when the surviving runner holds the current order."""
        argv, user, told = ["hyops", "takeover", "prepare", "--json"], STAGE_USERS["execution"].name, [""]

        def held() -> bool:
            done = self.lab.exec(CONTROL, argv, user=user, check=False, timeout_s=PATIENCE_S)
            told.append(f"{done.returncode}: {done.stdout}{done.stderr}")
            return done.returncode == 0

        try:
            until(held, what="the standby order", where=self.lab.log(CONTROL), timeout_s=PATIENCE_S)
        except LabError as error:
            units = ["journalctl", "--no-pager", "-o", "cat", "-n", "60", "-u", "hyops-decision-*"]
            log = self.lab.exec(CONTROL, units, check=False).stdout
            raise LabError(
                f"{error}; `hyops takeover prepare` said {told[-1]}; the stages said: {log[-6000:]}"
            ) from error

    def lose_both(self) -> None:
        """Kill the primary's site and the control host; from now on the loop is gone."""
        source = self.drills.primary()
        if source != postgres.PRIMARY:
            raise LabError(f"the drill kills the on-prem site, but {source} is the primary; switch over first")
        self.drills.wait_streaming(source)
        self.drills.loop.idle(PATIENCE_S)
        self.prepared()
        self.killed_ns = time.monotonic_ns()
        self.lab.kill_site(HOSTS[source].site)
        self.lab.kill(CONTROL)

    def order(self) -> StandbyOrder:
        """The order, as the runner prints it for approvers."""
        argv = ["hyops", "takeover", "show", "--export"]
        said = self.lab.exec(self.runner, argv, user=RUNNER_USER).stdout
        return StandbyOrder.read(said.encode(), source=f"the order on {self.runner}")

    def approvals(self, order: StandbyOrder) -> list[Approval]:
        """What the people sign, each with a key of his own."""
        keys, now = everything.keyring(self.lab).folder, datetime.now(UTC)

        def signed(principal: str, key: Path) -> Approval:
            statement = statement_for(order, approver=principal, now=now, valid_s=VALID_S, note="drill")
            return granted(statement, lambda data: sign(data, key))

        return [signed(principal, keys / name) for principal, name in PEOPLE.items()]

    def run(self, approvals: list[Approval], *more: str, check: bool = True) -> tuple[int, Json]:
        """Carry the approvals to the runner and have it take over; the exit code and what it says."""
        argv = ["hyops", "takeover", "run", "--by", APPROVER, "--reason", "drill", "--json", *more]
        for number, approval in enumerate(approvals):
            path = f"{PAPERS}/{number}.json"
            self.lab.write(self.runner, path, approval.encoded())
            argv += ["--approval", path]
        done = self.lab.exec(self.runner, argv, user=RUNNER_USER, check=False, timeout_s=PATIENCE_S)
        if check and done.returncode != 0:
            raise LabError(f"the takeover ended {done.returncode}: {done.stdout}{done.stderr}")
        said: Json = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
        return done.returncode, said

    def control_back(self, *, rebuilt: bool) -> None:
        """Power the control host on again; `rebuilt`: it has lost every record."""
        if rebuilt:
            for stage, user in STAGE_USERS.items():
                state = self.lab.machine(CONTROL).path(f"{user.home}/state")
                for kind in [*KINDS[stage], "standby", "taken", "starts", "takeover.json"]:
                    path = state / kind
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.lab.power_on(CONTROL)

    @contextmanager
    def watched(self) -> Iterator[dict[str, Capture]]:
        """Every survivor's link, from now until the end of the block, for what it has to do with the dead side."""
        dead = [f"{SITES[HOSTS[postgres.PRIMARY].site]}.0/24", HOSTS[CONTROL].address]
        with ExitStack() as watching:
            yield {host: watching.enter_context(captured(self.lab, host, *dead)) for host in SURVIVORS}

    def packets(self, seen: Mapping[str, Capture]) -> Packets:
        """What a watch shows."""
        return Packets.of(seen, survivors=SURVIVORS, since_s=self.killed_ns / 1e9)

    def once(self, *, rebuilt: bool = True) -> Trial:
        """Lose both, take over, and have a control host that came back adopt the outcome."""
        self.lose_both()
        with self.watched() as seen:
            order = self.order()
            _, said = self.run(self.approvals(order))
            ledger.wait_ack(self.lab, self.killed_ns, HOSTS[postgres.STANDBY].address)
        trial = self.adopted(said["run_id"], order, rebuilt=rebuilt)
        return replace(trial, packets=self.packets(seen))

    def adopted(self, run_id: str, order: StandbyOrder, *, rebuilt: bool) -> Trial:
        """Have control come back and learn of the run by itself; what it recorded, held against the ledger."""
        drills = self.drills
        self.control_back(rebuilt=rebuilt)
        outcome = drills.loop.wait("outcome", lambda o: o["run_id"] == run_id, PATIENCE_S)
        if rebuilt:
            stand(self.lab)
        return drills.judged(
            KIND, order.decision.decision_id, outcome, postgres.PRIMARY, postgres.STANDBY, self.killed_ns
        )


def line(trial: Trial) -> str:
    """What the capture of a takeover shows, for people."""
    if trial.packets is None or trial.first_ack_s is None:
        return "no capture up to a first write"
    first_s = trial.first_ack_s
    before, after = trial.packets.waited_s(until_s=first_s), trial.packets.waited_s(since_s=first_s)
    return (
        f"packets towards the dead side {trial.packets.towards}, from it {trial.packets.came}; the run's own tries to "
        f"reach it took at most {before:.1f} s of the {WAITED_MAX_S:.1f} s that its blueprint gives them before the "
        f"first write, {after:.1f} s after it"
    )


def faults(trial: Trial) -> list[str]:
    """What a takeover's capture has against it."""
    found = ["it has no capture"] if trial.packets is None else judged(trial.packets, trial.first_ack_s)
    return [f"{trial.run_id}: {fault}" for fault in found]


def judged(packets: Packets, first_ack_s: float | None) -> list[str]:
    """What a capture has against a takeover; what was tried for longer than it is by the blueprint was needed."""
    found, first_s = packets.faults(), math.inf if first_ack_s is None else first_ack_s
    for port in packets.ports():
        if port not in LIMITS_S:
            found.append(f"{port} of the dead side was tried, which no step of the blueprint does")
        elif (waited_s := packets.waited_s(port=port, until_s=first_s)) > LIMITS_S[port]:
            limit = f"its blueprint gives it {LIMITS_S[port]:.1f} s"
            found.append(f"{port} of the dead side was waited for before the first write, {waited_s:.1f} s: {limit}")
    if (waited_s := packets.waited_s(until_s=first_s)) > WAITED_MAX_S:
        found.append(f"the dead side was waited for, {waited_s:.1f} s of {WAITED_MAX_S:.1f} s before the first write")
    if (longest_s := packets.longest_s()) > FENCE_S:
        found.append(f"a connection to the dead side was waited for, {longest_s:.1f} s of {FENCE_S:.1f} s")
    return found


def summed(trials: Sequence[Trial], asked: int) -> list[str]:
    """What all takeovers of a drill come to, line by line; `asked` is how many there were to be."""
    made = [trial for trial in trials if trial.kind == KIND]
    good = [t for t in made if t.outcome == "succeeded" and t.truthful and t.verified and not faults(t)]
    times = [math.inf if t.first_ack_s is None else t.first_ack_s for t in made] or [math.inf]
    packets = [t.packets for t in made if t.packets is not None]
    towards, came = sum(p.towards for p in packets), sum(p.came for p in packets)
    missed = sum(sum(p.missed.values()) for p in packets)
    lost, right = sum(t.lost_here for t in made), sum(t.truthful for t in made)
    return [
        f"takeovers: {len(good)} of {asked} succeeded, with the loss counted right, evidence that verifies, and a "
        "capture that shows nothing needed from the dead side",
        f"  from the kill to the first write: p50 {quantile(times, 0.5):.2f} s, p95 {quantile(times, 0.95):.2f} s, "
        f"worst {max(times):.2f} s",
        f"  rows lost {lost}; {right} of {len(made)} runs claimed what was lost",
        f"  captures {len(packets)}, each of every survivor: {towards} packets towards the dead side, {came} from it, "
        f"{missed} missed",
    ]


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
