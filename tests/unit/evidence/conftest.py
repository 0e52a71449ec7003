"""A sealed bundle of one switch, and the means to write another one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from hyops.evidence.assemble import Story, assemble
from hyops.evidence.chain import FILE
from hyops.testing import evidence as seeds

Write = Callable[..., Path]
NOW = seeds.START + timedelta(minutes=1)


def failed_over() -> Story:
    """Everything about a successful failover."""
    switch = seeds.failover()
    return Story(**{f.name: getattr(switch, f.name) for f in dataclasses.fields(switch)})


@pytest.fixture
def story() -> Story:
    """Everything about a successful failover."""
    return failed_over()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Assemble a story, signed by a stage's key, in a directory of its own."""

    def written(story: Story, role: str = "execution") -> Path:
        place = tmp_path / f"bundles-{len(list(tmp_path.iterdir()))}"
        return assemble(story, directory=place, signer=seeds.STAGES[role], now=NOW)

    return written


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a successful failover, to be copied: signing and flushing each of its lines takes a while."""
    place = tmp_path_factory.mktemp("sealed")
    return assemble(failed_over(), directory=place, signer=seeds.STAGES["execution"], now=NOW)


@pytest.fixture
def bundle(sealed: Path, tmp_path: Path) -> Path:
    """The bundle of a successful failover, of this test alone."""
    return Path(shutil.copytree(sealed, tmp_path / "bundles" / sealed.name))


@pytest.fixture
def lines(bundle: Path) -> list[bytes]:
    """Its lines, each with its newline."""
    return (bundle / FILE).read_bytes().splitlines(keepends=True)
