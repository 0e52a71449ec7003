"""What is loaded without the collector, and that it goes on afterwards."""

from __future__ import annotations

import gc

import pytest

from hyops.services.loading import loading


def test_nothing_is_collected_within_and_what_is_there_is_left_alone_after() -> None:
    """The collector is off within and on afterwards, and looks no more at what was loaded."""
    frozen = gc.get_freeze_count()

    with loading():
        within = gc.isenabled()
        kept = [[number] for number in range(100)]

    assert (within, gc.isenabled()) == (False, True)
    assert gc.get_freeze_count() >= frozen + len(kept)
    assert not any(there is kept for there in gc.get_objects())


def test_the_collector_goes_on_after_a_refusal() -> None:
    """Whatever ends the loading, a command that goes on for hours has its collector."""
    with pytest.raises(ValueError, match="refused"), loading():
        raise ValueError("refused")

    assert gc.isenabled()


def test_who_had_it_off_keeps_it_off() -> None:
    """One loading within another ends nothing."""
    with loading():
        with loading():
            pass
        within = gc.isenabled()

    assert (within, gc.isenabled()) == (False, True)
