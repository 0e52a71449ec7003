"""What a takeover had to do with the dead side, host by host: its own tries, and what daemons do anyway."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hyops_lab.capture import Capture, Try
from hyops_lab.roles import postgres
from hyops_lab.wiring.common import PROBER
from hyops_lab.wiring.service import MEMBERS

TARGET, RUNNER = postgres.STANDBY, MEMBERS[postgres.STANDBY]
STANDING = {
    (RUNNER, PROBER.name, "tcp 5432"): "the vantage point looks at the primary four times a second, for control",
    (RUNNER, "etcd", "tcp 2380"): "a member of the quorum dials its peers for as long as it runs",
    (TARGET, "postgres", "tcp 5432"): "a standby dials its primary until it is promoted itself",
}
"""Host, user, and port -> why what this user sends there says nothing of the run: it was there before, and goes on."""


@dataclass(frozen=True)
class Packets:
    """What the survivors had to do with the dead side while they switched.

    `frames` and `missed`: host -> how many, of any kind. `tried`: host -> what it began -> how often; most of it is
    daemons', which try for ever, and nobody waits. `own`: host -> what was tried from there but by what is `STANDING`,
    in seconds since both were killed; of the runner and of the new primary, where its job goes.
    """

    towards: int
    came: int
    missed: dict[str, int]
    frames: dict[str, int]
    tried: dict[str, dict[str, int]]
    own: dict[str, list[Try]]

    @classmethod
    def of(cls, seen: Mapping[str, Capture], *, survivors: Iterable[str], since_s: float) -> Packets:
        """Of every survivor; one that nobody watched has no frames."""
        return cls(
            towards=sum(len(one.sent) + len(one.older) for one in seen.values()),
            came=sum(len(one.came) for one in seen.values()),
            missed={host: one.dropped for host, one in seen.items()},
            frames={host: seen[host].frames if host in seen else 0 for host in survivors},
            tried={host: dict(Counter(one.sent)) for host, one in seen.items() if one.sent},
            own={
                host: [
                    replace(one, began_s=round(one.began_s - since_s, 3))
                    for one in (seen[host].tries.values() if host in seen else ())
                    if (host, one.user, _port(one)) not in STANDING
                ]
                for host in (RUNNER, TARGET)
            },
        )

    def waited_s(self, *, port: str = "", since_s: float = 0.0, until_s: float = math.inf) -> float:
        """For how much of this time some try of the run's own may have been waited for; no second counts twice.

        Of those to one `port`, `tcp 22`, or of all.
        """
        chosen = [one for one in self._own() if port in ("", _port(one))]
        tries = sorted((one.began_s, one.began_s + one.lasted_s) for one in chosen)
        waited, reached = 0.0, since_s
        for began, ended in tries:
            waited += max(0.0, min(ended, until_s) - max(began, reached))
            reached = max(reached, ended)
        return round(waited, 3)

    def ports(self) -> list[str]:
        """What the run itself tried there: `tcp 22`."""
        return sorted({_port(one) for one in self._own()})

    def longest_s(self) -> float:
        """The most patient of the run's own tries."""
        return max((one.lasted_s for one in self._own()), default=0.0)

    def faults(self) -> list[str]:
        """Why this does not show that nothing came from the dead side."""
        found = []
        if self.came:
            found.append(f"{self.came} packets came from the dead side")
        found += [f"the capture of {host} missed {count} packets" for host, count in self.missed.items() if count]
        found += [f"the capture of {host} saw nothing at all" for host, count in self.frames.items() if not count]
        if not self.own.get(RUNNER):
            found.append(
                f"{RUNNER} did not try to reach the dead side, as a fence does: its capture watched the wrong thing"
            )
        return found

    def _own(self) -> list[Try]:
        return [one for tries in self.own.values() for one in tries]


def _port(one: Try) -> str:
    return one.what.rpartition(" to ")[0]
