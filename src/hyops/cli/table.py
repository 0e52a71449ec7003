"""What the command line offers: the group table and the help text made of it. Standard library only, and little of it,
so that `hyops --help` answers before any parser is loaded.
"""

from __future__ import annotations

GROUPS: dict[str, tuple[str, str, str]] = {
    "access": ("hyops.cli.access", "access", "Ask how targets are reached; open a way in for a while."),
    "apply": ("hyops.cli.apply", "apply", "Have a module stand on its host."),
    "approval": ("hyops.cli.approval", "approval", "List, show, grant, reject and verify approvals."),
    "ci": ("hyops.cli.ci", "ci", "Gate a recovery from CI and collect its evidence."),
    "control": (
        "hyops.cli.control",
        "control",
        "A loop at a glance; users of etcd, moving records.",
    ),
    "decision": ("hyops.cli.decision", "decision", "Replay and explain decisions."),
    "destroy": ("hyops.cli.apply", "destroy", "Take a module away from its host."),
    "drill": ("hyops.cli.drill", "drill", "Rehearse a switch on real hosts and prove the result."),
    "evidence": ("hyops.cli.evidence", "evidence", "Verify, show and report what happened."),
    "explain": ("hyops.cli.explain", "explain", "Why a request does not go on, and what to do."),
    "fence": ("hyops.cli.fence", "fence", "The fence agent beside a database: status, rejoin."),
    "hold": ("hyops.cli.hold", "hold", "Hold a service during maintenance; acknowledge a switch."),
    "import": ("hyops.cli.importing", "import_", "Read files of an older hybridops, with every loss named."),
    "init": ("hyops.cli.init", "init", "Set up what a runtime root needs from outside."),
    "lab": ("hyops_lab.cli", "lab", "Real hosts on this machine: up, fail, heal, down."),
    "lint": ("hyops.cli.lint", "lint", "Find unsafe designs in what people wrote."),
    "notify": ("hyops.cli.notify", "notify", "Whom the loop tells what happens."),
    "pki": ("hyops.cli.pki", "pki", "SSH identity: CAs, short certificates, revocation."),
    "policy": ("hyops.cli.policy", "policy", "Prove a policy, or replay what it would have done."),
    "probe": ("hyops.cli.probe", "probe", "Observe a service from this vantage point."),
    "run": ("hyops.cli.run", "run", "Show, follow, resume, cancel, reconcile runs."),
    "runner": ("hyops.cli.runner", "runner", "Dispatch blueprints to standing runners."),
    "schema": ("hyops.cli.schema", "schema", "Print the JSON Schema of every file a person writes."),
    "secrets": ("hyops.cli.secrets", "secrets", "The vault cache, and the authorities that fill it."),
    "service": ("hyops.cli.service", "service", "Run one stage of the control loop, or an agent."),
    "state": ("hyops.cli.state", "state", "What modules left behind, and conflicts to decide."),
    "status": ("hyops.cli.status", "status", "Services, generations and runs at a glance."),
    "takeover": ("hyops.cli.takeover", "takeover", "Finish a switch when no control host is left."),
    "tfc": ("hyops.cli.tfc", "tfc", "Terraform Cloud workspaces that keep state only."),
}
"""Group -> module, attribute, one line of help."""

OPTIONS = {"-V, --version": "Show the version and exit.", "-h, --help": "Show this message and exit."}

ABOUT = """\
hyops recovers services across sites with a switch that is provably safe.

  Exit codes: 0 done; 2 usage; 10-19 nothing changed; 20-29 failed under way;
  30 a bug; 40-49 done, not proven."""


def help_text() -> str:
    """`hyops --help`, laid out for 80 columns."""
    commands = {name: about for name, (_, _, about) in sorted(GROUPS.items())}
    lines = ["Usage: hyops [OPTIONS] COMMAND [ARGS]...", "", f"  {ABOUT}", "", "Options:", *_columns(OPTIONS)]
    return "\n".join([*lines, "", "Commands:", *_columns(commands)])


def _columns(words: dict[str, str]) -> list[str]:
    width = max(map(len, words))
    return [f"  {word:<{width}}  {about}" for word, about in words.items()]
