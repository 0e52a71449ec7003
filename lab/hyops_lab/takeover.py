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
from datetime import UTC, datetime
from pathlib import Path

from hyops.adapters.approval_ssh import sign
from hyops.model.approval import Approval
from hyops.model.takeover import StandbyOrder
from hyops.services.takeover_paper import granted, statement_for
from hyops_lab import ledger
from hyops_lab.approver import stand
from hyops_lab.drill import RUN_LIMIT_S, Drills, Trial
from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL, Json
from hyops_lab.roles import postgres
from hyops_lab.waiting import until
from hyops_lab.wiring import everything
from hyops_lab.wiring.common import STAGE_USERS
from hyops_lab.wiring.control import KINDS
from hyops_lab.wiring.keys import APPROVER, PEOPLE
from hyops_lab.wiring.service import MEMBERS

RUNNER_USER = "hyops"
VALID_S = 1800.0
PAPERS = "/run/hyops-papers"


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
            done = self.lab.exec(CONTROL, argv, user=user, check=False, timeout_s=RUN_LIMIT_S)
            told.append(f"{done.returncode}: {done.stdout}{done.stderr}")
            return done.returncode == 0

        try:
            until(held, what="the standby order", where=self.lab.log(CONTROL), timeout_s=2 * RUN_LIMIT_S)
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
        self.drills.loop.idle(RUN_LIMIT_S)
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
        done = self.lab.exec(self.runner, argv, user=RUNNER_USER, check=False, timeout_s=RUN_LIMIT_S)
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

    def once(self, *, rebuilt: bool = True) -> Trial:
        """Lose both, take over, and have a control host that came back adopt the outcome."""
        self.lose_both()
        order = self.order()
        _, said = self.run(self.approvals(order))
        ledger.wait_ack(self.lab, self.killed_ns, HOSTS[postgres.STANDBY].address)
        return self.adopted(said["run_id"], order, rebuilt=rebuilt)

    def adopted(self, run_id: str, order: StandbyOrder, *, rebuilt: bool) -> Trial:
        """Have control come back and learn of the run by itself; what it recorded, held against the ledger."""
        drills = self.drills
        self.control_back(rebuilt=rebuilt)
        outcome = drills.loop.wait("outcome", lambda o: o["run_id"] == run_id, RUN_LIMIT_S)
        if rebuilt:
            stand(self.lab)
        return drills.judged(
            "takeover", order.decision.decision_id, outcome, postgres.PRIMARY, postgres.STANDBY, self.killed_ns
        )


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
