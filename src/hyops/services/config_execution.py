"""The executor's configuration file: the services it runs for, and how each runner is reached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyops.model.approval import ApprovalPolicy
from hyops.model.base import Name, Part
from hyops.model.pki import SERVE_COMMAND
from hyops.services.config import PathText, People, Protected, SshLogin, StageConfig

AtOnce = Annotated[int, Field(ge=1, le=1000)]
AT_ONCE = 8  # as a runner has it by itself


class Certificates(Part):
    """The executor signs a certificate for each connection, with the user CA of this folder."""

    pki: PathText
    group: Name
    valid_s: Annotated[int, Field(ge=30, le=3600)] = 300
    command: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[ -~]+$")] = SERVE_COMMAND
    passphrase_file: PathText | None = None


class BastionLogin(SshLogin):
    """A jump host to runners; its key is pinned under its name. Ours, with `KEY-cert.pub` beside it, only forwards."""

    revoked: PathText | None = None


class RunnerLogin(SshLogin):
    """How a runner is reached. Without `certificate`: with the key, and `KEY-cert.pub` beside it if there is one.

    `bastion`: the one that its connection goes through; `address` is then the one that the bastion sees.
    """

    certificate: Certificates | None = None
    bastion: Name | None = None
    runs_at_once: AtOnce = AT_ONCE
    """Who wants more waits in the order of severity and age. More than the runner's own limit gives that order up."""
    revoked: PathText | None = None
    """OpenSSH's list of host keys and certificates that count no more; missing or unreadable, it revokes all."""


class PulledRunners(Part):
    """Runners that no SSH enters: their agents ask at the desk whose socket is here."""

    socket: PathText = "/run/hyops-pull/desk.sock"
    runner_refs: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    runs_at_once: AtOnce = AT_ONCE


class TakeoverTrust(Part):
    """Standby orders go to the runners, and takeovers are learnt of; whose approvals count is looked up here."""

    allowed_signers: PathText
    approvers: PathText
    revoked_signers: PathText | None = None
    policy: ApprovalPolicy = Field(default_factory=ApprovalPolicy)
    approvals: Annotated[int, Field(ge=1, le=10)] = 2


class ExecutionConfig(StageConfig):
    """`decision-executor`."""

    kind: Literal["DecisionExecutor"]
    mode: Literal["dry-run", "dispatch"] = "dry-run"
    protected: list[Protected] = Field(min_length=1)
    runners: dict[Name, RunnerLogin]
    bastions: dict[Name, BastionLogin] = Field(default_factory=dict, max_length=64)
    ssh_client: Literal["asyncssh", "openssh"] = "asyncssh"
    runtime_root: PathText | None = None
    shared_root: PathText | None = None
    pull: PulledRunners | None = None
    takeover: TakeoverTrust | None = None
    people: People | None = None
    """Whose holds and noes are heard before anything is sent, and shown as proved; without it none are."""

    def at_once(self, runner_ref: str) -> int:
        """How many runs this executor has open on a runner at a time."""
        login = self.runners.get(runner_ref)
        return login.runs_at_once if login else self.pull.runs_at_once if self.pull else AT_ONCE

    @model_validator(mode="after")
    def _one_way(self) -> ExecutionConfig:
        if self.pull is not None and (both := sorted(set(self.pull.runner_refs) & set(self.runners))):
            raise ValueError(f"pull.runner_refs: {', '.join(both)}: also under runners; a runner is reached one way")
        for ref, login in self.runners.items():
            if login.bastion is not None and login.bastion not in self.bastions:
                raise ValueError(f"runners.{ref}.bastion: no {login.bastion!r} in bastions")
        return self
