"""Which protocols this hyops speaks with the other side of a dispatch, and what becomes of two that differ (RUN-11).

Both sides say their range before anything else, and speak the highest number that both know. Ranges that do not meet
end in a refusal of whatever makes or changes something. Looking, following, cancelling what runs and collecting keep
their frames in every protocol, so that a run is not lost over an upgrade; who asks is told which side to upgrade, also
where an answer cannot be read because of it. Standard library only.

Protocol 2: a run spec that names its run in the execution and counts its approvals, sealed secrets, shipping by content
and a resume with a name and a reason. Protocol 1 knows none of them and refuses them as damaged records; it is not
spoken any more.

A fence agent is asked over another way and serves every verb that it knows to whoever asks: a host must be fenced
whatever its version. So it only says which protocol it speaks, and a runner that would need more of it refuses in
preflight. Protocol 2: `prepare` and `readmit`, and lease records that are compared by revision. An older agent could
never take the lease of a generation that is raised for it, so it is neither handed the service nor asked to hand over.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyops.errors import ProtocolError

PROTOCOL_MIN = PROTOCOL_MAX = 2
AGENT_PROTOCOL = 2
NUMBER_MAX = 2**31


@dataclass(frozen=True)
class Speaker:
    """One side: how people call it, its hyops version and the protocols that it speaks, both ends included."""

    name: str
    hyops_version: str
    protocol_min: int
    protocol_max: int

    def __str__(self) -> str:
        low, high = self.protocol_min, self.protocol_max
        return f"{self.name} has hyops {self.hyops_version} (protocol {low if low == high else f'{low} to {high}'})"


def ours(name: str, hyops_version: str) -> Speaker:
    """This side."""
    return Speaker(name, hyops_version, PROTOCOL_MIN, PROTOCOL_MAX)


def agreed(here: Speaker, there: Speaker) -> int:
    """The highest protocol that both sides speak.

    Raises:
        ProtocolError: there is none; it names both versions, and the side to upgrade.
    """
    number = min(here.protocol_max, there.protocol_max)
    if number >= max(here.protocol_min, there.protocol_min):
        return number
    older = here if here.protocol_max < there.protocol_min else there
    newer = there if older is here else here
    raise ProtocolError(
        f"{there}, {here}: they have no protocol in common",
        hint=f"upgrade hyops on {older.name} to {newer.hyops_version}; nothing was staged or started, runs that are "
        f"under way there go on",
    )
