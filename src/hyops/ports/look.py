"""How far a person's question to a runner got, so that a silent one can be told from one that is away (RUN-11)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hyops.errors import Effect, RunnerUnreachableError


class Awaited(StrEnum):
    """What has not come yet: the words that a person reads."""

    BASTION = "its bastion"
    TCP = "no TCP connection"
    HANDSHAKE = "TCP is up, but no SSH handshake and login"
    DESK = "the pull desk of this host, or the runner's agent, gives no link"
    ANSWER = "the link is up, but `hyops runner-serve` there does not answer"


MENDS = {
    Awaited.BASTION: "see that the bastion is up and reached from here; no other way is tried",
    Awaited.TCP: "see that the host is up, and that route and firewall let its SSH port through",
    Awaited.HANDSHAKE: "see what its sshd does (load, memory, a stopped or stalled process, DNS or PAM), or what else "
    "listens on that port",
    Awaited.DESK: "see that `hyops service run pull-desk` runs here, and the agent on the runner",
    Awaited.ANSWER: "log in as an administrator and see what `hyops runner-serve` waits for (a stalled disk, memory, a "
    "stopped process)",
}


@dataclass
class Look:
    """One question: how long it may take in all, and what is waited for now, kept up by whoever connects."""

    limit_s: float
    awaited: Awaited = Awaited.TCP

    def silent(self, runner_ref: str) -> RunnerUnreachableError:
        """The error that names what was silent; nothing was asked to be done."""
        return RunnerUnreachableError(
            f"{runner_ref}: silent, given up within {self.limit_s:g} s: {self.awaited}",
            hint=MENDS[self.awaited],
            effect=Effect.NONE,
            awaited=self.awaited.name.lower(),
        )
