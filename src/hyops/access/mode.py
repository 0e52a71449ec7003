"""What every access mode is: a plane, named prerequisites, and no way to another mode (ACC-1, ACC-2, INV-6).

The prerequisites are asked in order, up to the first that does not hold: the refusal names mode and prerequisite.
Nothing here chooses a mode; the approved plan did.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hyops.access.circumstances import Circumstances, Target
from hyops.errors import HostKeyError, PrerequisiteError, RefusedError
from hyops.model.access import AccessCheck, AccessOptions, ResolvedAccess
from hyops.model.vocabulary import ExecutionPlane
from hyops.ports.access import AccessProbes, SshPlace
from hyops.ports.clock import Clock


class NotHeldError(Exception):
    """A prerequisite does not hold; `hint` says what would mend it."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.why, self.hint = why, hint


@dataclass(frozen=True)
class Prerequisite:
    """One thing to ask about one subject; `look` tells what it saw, or raises NotHeldError."""

    name: str
    subject: str
    look: Callable[[], Awaitable[str]]


class AccessMode(ABC):
    """One execution plane. `names` are its prerequisites in the order in which they are asked."""

    plane: ClassVar[ExecutionPlane]
    names: ClassVar[tuple[str, ...]]
    limits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: AccessOptions, login: SshPlace, probes: AccessProbes) -> None:
        """`login` is how a target is entered; its address and names are replaced by the target's."""
        self.options, self._login, self.probes = options, login, probes

    @abstractmethod
    def prerequisites(self, run: Circumstances) -> Sequence[Prerequisite]:
        """What must hold for this run."""

    def through(self, run: Circumstances) -> Sequence[str]:
        """What stands between runner and target, by name."""
        return ()

    def via(self, run: Circumstances) -> SshPlace | None:
        """The jump host that SSH to a target goes through."""
        return None

    def place(self, target: Target) -> SshPlace:
        """How a target is entered; its key is pinned under its address."""
        login = self._login
        return SshPlace(
            target.host, target.address, login.port, login.user, login.key_file, login.known_hosts, target.address
        )

    def is_private(self, address: str) -> bool:
        """Whether an address lies in a network that is declared private; loopback is."""
        wanted = ipaddress.ip_address(address)
        networks = [ipaddress.ip_network(one) for one in self.options.private_networks]
        return wanted.is_loopback or any(wanted.version == n.version and wanted in n for n in networks)

    def answers(self, run: Circumstances) -> list[Prerequisite]:
        """ACC-3: created is not ready; an authenticated command that answers with the pinned host key is."""

        def asking(target: Target) -> Prerequisite:
            async def look() -> str:
                wait_s = self.options.ready_wait_s
                seen = await self.probes.ssh(self.place(target), via=self.via(run), wait_s=wait_s, command=True)
                if not seen.ran:
                    raise NotHeldError("it takes the login and answers no command", "see what the runner's key may run")
                return f"{seen.fingerprint} answered at try {seen.tries}"

            return Prerequisite("target-answers", target.host, look)

        return [asking(target) for target in run.targets]


async def resolve(mode: AccessMode, run: Circumstances, clock: Clock) -> ResolvedAccess:
    """Ask every prerequisite of the plan's own mode.

    Raises:
        PrerequisiteError: one does not hold; names the mode and the prerequisite. HostKeyError: a wrong host key.
    """
    if mode.plane is not run.plane:
        raise PrerequisiteError(f"access mode {run.plane} was approved, and {mode.plane} is another")
    checks = []
    for asked in mode.prerequisites(run):
        start_s = clock.monotonic()
        try:
            seen = await asked.look()
        except NotHeldError as exc:
            raise _refusal(mode, asked, exc.why, exc.hint) from exc
        except HostKeyError as exc:
            raise HostKeyError(_told(mode, asked, exc.message), hint=exc.hint) from exc
        except RefusedError as exc:
            raise _refusal(mode, asked, exc.message, exc.hint) from exc
        spent_s = round(max(0.0, clock.monotonic() - start_s), 6)
        checks.append(AccessCheck(prerequisite=asked.name, subject=asked.subject, seen=seen, elapsed_s=spent_s))
    return ResolvedAccess(
        plane=mode.plane,
        runner_ref=run.runner_ref,
        targets=[f"{target.host} ({target.address})" for target in run.targets],
        through=list(mode.through(run)),
        checks=checks,
        limits=list(mode.limits),
        resolved_at=clock.now(),
    )


def said(name: str, subject: str, seen: str | None, why: str, hint: str) -> Prerequisite:
    """One that what is written down decides: it holds with `seen`, or does not, for `why`."""

    async def look() -> str:
        if seen is None:
            raise NotHeldError(why, hint)
        return seen

    return Prerequisite(name, subject, look)


def _told(mode: AccessMode, asked: Prerequisite, why: str) -> str:
    return f"access mode {mode.plane}: {asked.name} ({asked.subject}): {why}; no other mode is tried"


def _refusal(mode: AccessMode, asked: Prerequisite, why: str, hint: str) -> PrerequisiteError:
    return PrerequisiteError(_told(mode, asked, why), hint=hint, mode=mode.plane, prerequisite=asked.name)
