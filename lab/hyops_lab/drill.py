"""Drills: a switch on real hosts with the same plan bytes as in anger, measured from the client's side.

The drill only breaks things, asks for a planned switch, and looks. What happens in between is the control loop's own
doing; what it claims is held against what the client's ledger says.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyops_lab import ledger
from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL, EVIDENCE, Json, Loop
from hyops_lab.packets import Packets
from hyops_lab.roles import postgres
from hyops_lab.waiting import PATIENCE_S, first_seen, until
from hyops_lab.wiring import everything
from hyops_lab.wiring.service import SERVICE

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

DECIDE_USER = "hyops-decision"


@dataclass(frozen=True)
class Trial:
    """One switch, as it was seen from outside beside what the run says of itself. Durations in seconds."""

    kind: str
    decision_id: str
    run_id: str
    outcome: str
    source: str
    target: str
    generation: int
    receipt_class: str
    gap_s: float
    first_ack_s: float | None
    acknowledged: int
    surviving: int
    lost: int
    lost_here: int
    claimed_lost: int | None
    phases_s: dict[str, float]
    rta_s: float | None
    evidence: Path
    verified: bool
    facts: Json = field(default_factory=dict)
    packets: Packets | None = None

    @property
    def truthful(self) -> bool:
        """Whether the run counted the loss that there is."""
        return self.claimed_lost == self.lost


class Drills:
    """Switches of one lab that is up and wired, one after the other."""

    def __init__(self, lab: Lab, *, say: Callable[[str], None] = lambda text: None, keep: Path | None = None) -> None:
        """`keep` is where evidence is copied; default: the lab's own folder, gone with it."""
        self.lab, self.loop, self._say = lab, Loop(lab), say
        self._keep = keep or lab.names.state / "evidence"
        self._lost_before = 0

    def primary(self) -> str:
        """The member that takes writes, by asking both databases; two never may, and one that starts is waited for."""

        def one() -> str | None:
            found = [host for host in postgres.SERVERS if self._in_recovery(host) is False]
            if len(found) > 1:
                raise LabError(f"{len(found)} databases take writes: {', '.join(found)}")
            return found[0] if found else None

        where = ", ".join(map(self.lab.log, postgres.SERVERS))
        return first_seen(one, what="a database that takes writes", where=where, timeout_s=PATIENCE_S)

    def at_home(self) -> bool:
        """Whether the on-prem member is the primary, as when the lab came up."""
        return self.primary() == postgres.PRIMARY

    def switchover(self) -> Trial:
        """A planned switch to the other member; the client writes all the time."""
        source = self.primary()
        target = postgres.peer(source)
        self.wait_streaming(source)
        self.loop.idle(PATIENCE_S)
        since_ns = time.monotonic_ns()
        decision_id = self.request("failover" if source == postgres.PRIMARY else "failback")
        outcome = self.loop.after(decision_id, PATIENCE_S)
        if outcome["outcome"] == "succeeded":
            ledger.wait_ack(self.lab, time.monotonic_ns(), HOSTS[target].address)
        return self._trial("switchover", decision_id, outcome, source, target, since_ns, None)

    def site_loss(self, *, on_decision: Callable[[Json], None] = lambda decision: None) -> Trial:
        """The primary's site dies at once; everything after that is the loop's doing."""
        source = self.primary()
        if source != postgres.PRIMARY:
            raise LabError(f"the drill kills the on-prem site, but {source} is the primary; switch over first")
        target = postgres.peer(source)
        self.wait_streaming(source)
        known = {d["decision_id"] for d in self.loop.records("decision")}
        killed_ns = time.monotonic_ns()
        self.lab.kill_site(HOSTS[source].site)

        def is_new(decision: Json) -> bool:
            return decision["decision_id"] not in known and decision["decision_type"] == "failover"

        decision = self.loop.wait("decision", is_new, PATIENCE_S)
        on_decision(decision)
        outcome = self.loop.after(decision["decision_id"], PATIENCE_S)
        if outcome["outcome"] == "succeeded":
            ledger.wait_ack(self.lab, killed_ns, HOSTS[target].address)
        return self._trial("site-loss", decision["decision_id"], outcome, source, target, killed_ns, killed_ns)

    def recover(self) -> Trial:
        """Power the lost site on, rewind the old primary as the runbook says, and switch back."""
        self.rejoin()
        return self.switchover()

    def rejoin(self) -> None:
        """The old primary comes up fenced; the operator agrees to the rewind, and it follows the new one."""
        old, primary = postgres.PRIMARY, postgres.STANDBY
        self.lab.power_on_site(HOSTS[old].site)
        self._agent(old)
        generation = str(self._agent(primary)["generation"])
        argv = ["hyops", "fence", "rejoin", "--primary", primary, "--generation", generation, "--yes"]
        self.lab.exec(old, argv, timeout_s=PATIENCE_S)
        self.wait_streaming(primary)

    def _agent(self, host: str) -> Json:
        """What the fence agent of a host says, as soon as it says something."""

        def told() -> Json | None:
            done = self.lab.exec(host, ["hyops", "fence", "status", "--json"], check=False)
            said: Json | None = json.loads(done.stdout) if done.returncode == 0 else None
            return said

        return first_seen(told, what=f"the fence agent of {host}", where=self.lab.log(host), timeout_s=PATIENCE_S)

    def request(self, decision_type: str, occasion: str = "planned") -> str:
        """Ask for a switch as an operator does; returns the decision's id."""
        argv = ["hyops", "decision", "request", "--service", SERVICE, "--type", decision_type, "--occasion", occasion]
        argv += ["--rationale", "drill", "--by", "drill", "--config", "/etc/hyops/operator.json", "--json"]
        return str(json.loads(self.lab.exec(CONTROL, argv, user=DECIDE_USER).stdout)["decision_id"])

    def wait_streaming(self, primary: str) -> None:
        """Return when the other member streams from `primary`."""
        postgres.wait_streaming(self.lab, primary)

    def _in_recovery(self, host: str) -> bool | None:
        if not self.lab.machine(host).is_on():
            return None
        argv = ["psql", "-XAtq", "-d", "app", "-c", "SELECT pg_is_in_recovery()"]
        done = self.lab.exec(host, argv, user="postgres", check=False)
        return None if done.returncode else done.stdout.strip() == "t"

    def judged(self, kind: str, decision_id: str, outcome: Json, source: str, target: str, killed_ns: int) -> Trial:
        """A trial that another module made, held against the ledger like those of here."""
        return self._trial(kind, decision_id, outcome, source, target, killed_ns, killed_ns)

    def _trial(
        self, kind: str, decision_id: str, outcome: Json, source: str, target: str, since_ns: int, killed_ns: int | None
    ) -> Trial:
        acks = [entry for entry in ledger.entries(self.lab) if entry.at_ns >= since_ns - 1_000_000_000]
        first = ledger.first_ack_after(acks, killed_ns, HOSTS[target].address) if killed_ns is not None else None
        serving = target if outcome["outcome"] == "succeeded" else self.primary()
        loss = ledger.count_loss(self.lab, serving)
        lost_here, self._lost_before = len(loss.lost) - self._lost_before, len(loss.lost)
        result: dict[str, Any] = outcome.get("result", {})
        evidence = self.evidence_of(outcome["run_id"])
        shown = self.verified(evidence)
        return Trial(
            kind=kind,
            decision_id=decision_id,
            run_id=outcome["run_id"],
            outcome=outcome["outcome"],
            source=source,
            target=target,
            generation=outcome.get("generation_after") or outcome["generation_before"],
            receipt_class=_receipt_class(result),
            gap_s=ledger.gap(acks).seconds if len(acks) > 1 else math.inf,  # nobody may serve after a failed one
            first_ack_s=None if first is None or killed_ns is None else (first.at_ns - killed_ns) / 1e9,
            acknowledged=loss.acknowledged,
            surviving=loss.surviving,
            lost=len(loss.lost),
            lost_here=lost_here,
            claimed_lost=_claimed_lost(result),
            phases_s=outcome.get("phases_s", {}),
            rta_s=shown.get("actuals", {}).get("rta_s"),
            evidence=evidence,
            verified=bool(shown),
            facts=outcome,
        )

    def evidence_of(self, run_id: str) -> Path:
        """The bundle of a run, waited for and copied to where evidence is kept."""
        source = self.lab.machine(CONTROL).path(f"{EVIDENCE}/{run_id}")
        until(source.exists, what=f"the evidence of {run_id}", where=str(source), timeout_s=PATIENCE_S)
        target = self._keep / run_id
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        return target

    def verified(self, bundle: Path) -> Json:
        """What the bundle says when it verifies with nothing but public keys; empty when it does not."""
        keys = everything.keyring(self.lab).folder
        argv = [str(Path(sys.executable).with_name("hyops")), "evidence", "show", str(bundle), "--json"]
        argv += ["--keys", str(keys / "trusted_keys.json"), "--allowed-signers", str(keys / "allowed_signers")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        said: Json = json.loads(done.stdout) if done.returncode == 0 else {}
        return said


def _steps(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["step_id"]: step.get("outputs", {}) for step in result.get("steps", [])}


def _receipt_class(result: dict[str, Any]) -> str:
    receipt = _steps(result).get("fence", {}).get("receipt", {})
    return str(receipt.get("receipt_class", "none"))


def _claimed_lost(result: dict[str, Any]) -> int | None:
    loss = _steps(result).get("count-loss", {}).get("loss")
    return None if loss is None else int(loss["lost"])
