"""What `policy check` refuses of thresholds is what the decision stage really gets wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.control.proof.readings import misread
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import DecisionType
from simulation.world import World, policy

SOUND: list[dict[str, Any]] = [{}, {"threshold": 0.5}, {"leave_threshold": 1.0}]
MOVES_THE_LIVING: list[dict[str, Any]] = [{"threshold": 2.0}, {"comparator": "lte", "threshold": 0.0}]
SEES_NO_DEATH: list[dict[str, Any]] = [{"threshold": 0.0}, {"threshold": -1.0}]


def known(changes: dict[str, Any]) -> ServicePolicy:
    """The policy with every signal about the primary changed."""
    body = policy(rto_s=30.0).body()
    signals = [{**one, **(changes if one.get("about", "primary") == "primary" else {})} for one in body["signals"]]
    return policy(signals=signals)


def moved(changes: dict[str, Any], *, dies: bool) -> bool:
    """Whether a failover is decided: once the site has died, or while all reach the primary and WAL alone stalls."""
    world = World(service_policy=known(changes))
    world.watch(2)
    if dies:
        world.site_dies()
    else:
        world.seen.wal_age_s = 30.0
    world.watch(6)
    return bool(world.decisions(DecisionType.FAILOVER))


@pytest.mark.req("DEC-3", "DEC-4", "INV-5")
@pytest.mark.parametrize("changes", [*SOUND, *MOVES_THE_LIVING, *SEES_NO_DEATH], ids=str)
def test_what_is_refused_is_what_goes_wrong(changes: dict[str, Any]) -> None:
    """Sound: the dead is replaced and the living is not. Refused: the one or the other is wrong in earnest."""
    as_meant = moved(changes, dies=True) and not moved(changes, dies=False)

    assert as_meant is (changes in SOUND)
    assert (list(misread(known(changes))) == []) is as_meant
