"""`make demo`: from a lost site to switched traffic with proof, on real hosts, told step by step.

Nothing here knows how it will end: every line is read from records, from the client's ledger, or from a verifier that
has only the bundle and public keys. Exit code 0 only if all of it holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from hyops.cli.main import show_error
from hyops.errors import HyopsError, NotVerifiedError
from hyops_lab import Lab, ledger
from hyops_lab.approver import grant
from hyops_lab.drill import Drills, Trial
from hyops_lab.hosts import ENDPOINT, HOSTS
from hyops_lab.loop import Json
from hyops_lab.roles import postgres
from hyops_lab.waiting import PATIENCE_S
from hyops_lab.wiring import everything

LAB_ID = "demo"
OUT = Path("out") / "demo"


class Demo:
    """One telling. `console` is where it goes."""

    def __init__(self, lab: Lab, out: Path, console: Console) -> None:
        self.lab, self.out, self.console = lab, out, console
        self.drills = Drills(lab, keep=out)

    def tell(self) -> list[str]:
        """Everything from a healthy service to a verified report; returns what did not hold."""
        self.chapter("A service on two sites", self.service_text())
        ledger.start(self.lab)
        ledger.wait_ack(self.lab, time.monotonic_ns() + 1_000_000_000)
        before = ledger.entries(self.lab)
        self.say(f"the client has {len(before)} acknowledged rows, written through {ENDPOINT}")
        self.chapter("The on-prem site dies", "power and network of both its hosts, at once")
        trial = self.drills.site_loss(on_decision=self.approve)
        report = self.report(trial)
        self.show(trial, report)
        return faults(trial, report)

    def approve(self, decision: Json) -> None:
        """Show what was decided and asked for, then sign as the approver would."""
        bad = [c for c in decision["checks"] if c["name"] == "primary_answers" and c["status"] == "bad"]
        self.say(f"vantage points that lost {postgres.PRIMARY}: " + ", ".join(sorted({c["vantage"] for c in bad})))
        self.say(f"[bold]decision[/] {decision['decision_id']}: {decision['decision_type']}, {decision['rationale']}")
        request = self.drills.loop.wait("request", lambda r: answers(r, decision), PATIENCE_S)
        plan = self.plan(request)
        self.say(
            f"[bold]request[/]  {request['dispatch_id']}: {request['status']}, plan {request['plan_digest'][:19]}…"
        )
        for step in plan["steps"]:
            self.say(f"           {step['phase']:<9} {step['id']:<15} {step.get('title', '')}")
        approval = grant(self.lab, request, note="demo: the site is gone, go")
        self.say(f"[bold]approval[/] {approval}: signed with an SSH key over the digest of exactly these bytes")

    def plan(self, request: Json) -> Any:
        """The plan that a request asks approval for."""
        path = self.drills.loop.folder("plan") / f"{request['plan_digest'].removeprefix('sha256:')}.json"
        return json.loads(path.read_bytes())

    def report(self, trial: Trial) -> Path:
        """The HTML page, made from the bundle alone by the command a stranger would use."""
        everything.export_public_keys(self.lab, self.out)
        page = self.out / "report.html"
        page.unlink(missing_ok=True)  # one of an earlier demo proves nothing
        argv = [
            str(Path(sys.executable).with_name("hyops")),
            "evidence",
            "report",
            str(trial.evidence),
            "-o",
            str(page),
        ]
        argv += ["--keys", str(self.out / "trusted_keys.json"), "--allowed-signers", str(self.out / "allowed_signers")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            self.say(f"[red]no report:[/] {done.stderr.strip()}")
        return page

    def show(self, trial: Trial, report: Path) -> None:
        """What a person wants to know in the morning."""
        table = Table(show_header=False, box=None, pad_edge=False)
        phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in trial.phases_s.items())
        rta = "unknown" if trial.rta_s is None else f"{trial.rta_s:.2f} s"
        first = "never" if trial.first_ack_s is None else f"{trial.first_ack_s:.2f} s after the site died"
        rows: list[tuple[str, str]] = [
            ("outcome", trial.outcome),
            ("primary", f"{trial.source} -> {trial.target}"),
            ("fence receipt", trial.receipt_class),
            ("generation", str(trial.generation)),
            ("RTA", f"{rta} ({phases})"),
            ("first acknowledged write", first),
            ("rows", f"{trial.acknowledged} acknowledged, {trial.surviving} surviving, {trial.lost} lost"),
            ("loss as the run counted it", str(trial.claimed_lost)),
            ("evidence", "verified" if trial.verified else "NOT VERIFIED"),
            ("bundle", str(trial.evidence)),
            ("report", str(report)),
        ]
        for name, value in rows:
            table.add_row(f"[bold]{name}[/]", value)
        self.console.print(Panel(table, title="proof", title_align="left"))
        self.console.print(f"evidence: {'verified' if trial.verified else 'NOT VERIFIED'}", highlight=False)

    def service_text(self) -> str:
        """Who is where."""
        sites: dict[str, list[str]] = {}
        for host in HOSTS.values():
            sites.setdefault(host.site, []).append(host.name)
        return "\n".join(f"{site:<7} {', '.join(hosts)}" for site, hosts in sites.items())

    def chapter(self, title: str, text: str) -> None:
        """A heading."""
        self.console.print(Panel(text, title=title, title_align="left"))

    def say(self, text: str) -> None:
        """One line."""
        self.console.print("  " + text, highlight=False, soft_wrap=True)


def answers(request: Json, decision: Json) -> bool:
    """Whether a request is the one that a decision led to."""
    return bool(request["source_decision_id"] == decision["decision_id"])


def faults(trial: Trial, report: Path) -> list[str]:
    """What does not hold; empty when the demo is a success."""
    checks = {
        f"the run {trial.outcome}": trial.outcome == "succeeded",
        f"{trial.target} took no write": trial.first_ack_s is not None,
        f"the run counted {trial.claimed_lost} lost rows, the truth is {trial.lost}": trial.truthful,
        "the fence receipt is missing": trial.receipt_class in ("observed", "powered-off", "lease-expired"),
        "the evidence does not verify": trial.verified,
        "there is no report": report.is_file() and report.stat().st_size > 0,
    }
    return [text for text, holds in checks.items() if not holds]


def main() -> int:
    """Bring the lab up, tell, and leave nothing of it."""
    console = Console()
    OUT.mkdir(parents=True, exist_ok=True)
    lab = Lab(LAB_ID, say=lambda text: console.print(f"[dim]{text}[/]"))
    found: list[str] = []
    try:
        lab.down()
        started = time.monotonic()
        lab.up(wire=everything.wire)
        console.print(f"[dim]eight hosts are up and wired after {time.monotonic() - started:.1f} s[/]")
        found = Demo(lab, OUT, console).tell()
    except HyopsError as exc:
        show_error(exc, as_json=False)
        return exc.exit_code
    finally:
        lab.down()
    for text in found:
        console.print(f"[red]does not hold:[/] {text}", highlight=False)
    return NotVerifiedError.exit_code if found else 0


if __name__ == "__main__":
    sys.exit(main())
