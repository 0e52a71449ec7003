"""The table of rules: what each objects to, why, and what to do instead. Pages, SARIF and messages come from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hyops.lint import access, authority, layers
from hyops.lint.look import Hit, Workspace
from hyops.ports.documents import Document

Check = Callable[[Document, Workspace], Iterator[Hit]]


@dataclass(frozen=True)
class Rule:
    """One rule. Without a `check` it is about the comments that allow findings."""

    id: str
    title: str
    why: str
    mend: str
    check: Check | None = None

    @property
    def slug(self) -> str:
        """The id as part of a file name."""
        return self.id.replace("/", "-")


RULES = {
    rule.id: rule
    for rule in (
        Rule(
            "drift/workstation",
            "A workstation is assumed",
            "In an outage the workstation, its VPN and its keys are part of what is lost; a standing runner is not.",
            "name a standing runner in runner_ref, use runner-local or private-overlay, keep keys in the vault",
            access.workstation,
        ),
        Rule(
            "drift/one-project",
            "One project owns runner, secrets, backups and workloads",
            "Whoever loses or locks that project loses the service and everything that could restore it.",
            "give each its own: host_project_id (and network), control_project_id, workload_project_id",
            authority.one_project,
        ),
        Rule(
            "drift/public-ip",
            "A public address by default",
            "What everybody reaches, everybody attacks; recovery hosts are made in a hurry, and stay.",
            "reach the host through its runner; in a drill, public-ephemeral with source_ranges and an end",
            access.public_ip,
        ),
        Rule(
            "drift/ci-target-access",
            "CI has access to target networks",
            "A forge that can log in to databases is one stolen token away from them, and is often lost with the site.",
            "let CI validate, ask for approval and dispatch with `hyops runner blueprint`; take keys and tunnels out",
            access.ci_target_access,
        ),
        Rule(
            "drift/dr-creates-runner",
            "The recovery begins by making its runner",
            "Quota, images and package mirrors fail exactly then, and the recovery time includes a whole bootstrap.",
            "make runners beforehand with networking/*-ops-runner and name one in runner_ref",
            layers.dr_creates_runner,
        ),
        Rule(
            "drift/failback-cloud",
            "Failback goes through a cloud",
            "Coming home must not need the cloud that one may be leaving because it fails or costs too much.",
            "run failback on the site's own runner, such as proxmox-ops-runner, with runner-local",
            layers.failback_through_cloud,
        ),
        Rule(
            "drift/hidden-bastion",
            "A bastion is guessed or hidden",
            "A jump host that nobody defined has no pinned key, no owner, and a place that has just changed.",
            "say bastion-explicit and define the bastion beside it, or use runner-local",
            access.hidden_bastion,
        ),
        Rule(
            "drift/provider-in-bootstrap",
            "The generic bootstrap knows a provider",
            "Each provider's case in the bootstrap is one more thing that breaks only there, in an outage.",
            "move it into the provider's egress or VM module; the bootstrap gets an address and a login",
            layers.provider_in_bootstrap,
        ),
        Rule(
            "drift/dispatch-in-module",
            "A module dispatches",
            "A run that starts runs escapes the approval of its own bytes, and nobody's journal covers both.",
            "take it out: the dispatcher records requests, the executor and `hyops runner blueprint` dispatch",
            layers.dispatch_in_module,
        ),
        Rule(
            "drift/secret-single-source",
            "The only source of a secret is on-prem, a shell or a runner's disk",
            "It is lost with the site, the session or the disk, at the moment in which it is needed.",
            "keep it in an authority outside of the site (Vault, a cloud's secret manager) and map it there",
            authority.single_source,
        ),
        Rule(
            "drift/hardcoded-reference",
            "An address, bucket or project is written out where a state ref exists",
            "The copy is right on the day it is typed; after the next rebuild a recovery goes to another place.",
            "remove the value and leave the state ref, or give the input its state ref",
            authority.hardcoded,
        ),
        Rule(
            "allow/reason",
            "An allowance without rule or reason",
            "Nobody can later tell whether an exception still holds when it does not say why it was made.",
            "write `# hyops-lint: allow RULE -- reason`, with a rule of this list",
        ),
        Rule(
            "allow/unused",
            "An allowance that allows nothing",
            "It would silently hide the next finding that comes to stand there.",
            "remove the comment, or put it on the line of the finding or alone on the line above",
        ),
    )
}
