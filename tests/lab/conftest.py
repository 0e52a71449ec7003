"""The lab that the tests of the switch share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hyops_lab import Lab, RequirementsError, requirements
from lab.switch_lab import SwitchLab
from workers import WORKER


@pytest.fixture(scope="session")
def wired() -> Iterator[SwitchLab]:
    """A wired lab, kept up from the first test that needs it to the last."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    try:
        requirements.ensure(print)
    except RequirementsError as error:
        pytest.skip(str(error))
    kept = os.environ.get("HYOPS_LAB_ID")
    made = SwitchLab(Lab(f"{kept}{WORKER}" if kept else f"s{os.getpid()}", say=print))
    mine = not made.lab.is_up()  # a lab that somebody keeps up to work on is left up
    try:
        if mine:
            made.build()
        yield made
    finally:
        if mine:
            made.lab.down()


@pytest.fixture
def service(wired: SwitchLab) -> SwitchLab:
    """The service at rest, wherever its primary is."""
    wired.settle()
    return wired
