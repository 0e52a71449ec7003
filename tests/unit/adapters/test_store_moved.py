"""The sign that records are elsewhere, and how a running stage shows itself to who only looks (LOOP-1, LOOP-3)."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hyops.adapters.moving_files import FilePlace
from hyops.adapters.store_moved import SERVING, SIGN, is_served, moved, serving
from hyops.errors import PrerequisiteError


@pytest.mark.req("LOOP-3", "UX-2")
def test_a_look_is_not_taken_for_a_stage_and_keeps_none_out(tmp_path: Path) -> None:
    """Only a stage counts, for as long as it runs; a look makes nothing, and a move is not kept out by one."""
    homes = {"dispatch": str(tmp_path / "dispatch"), "execution": str(tmp_path / "execution")}
    place, state = FilePlace(homes), tmp_path / "dispatch" / "state"

    assert (place.served(), list(tmp_path.iterdir())) == ([], [])
    with serving(state), serving(state):
        assert [place.served(), place.served()] == [["dispatch"], ["dispatch"]]
    with serving(state, alone=True):
        assert place.served() == []  # a move is no stage
    assert place.served() == []


@pytest.mark.req("LOOP-3", "UX-1")
@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder"])
def test_what_is_no_file_there_is_nobody(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not followed, not waited for, and no error."""
    monkeypatch.chdir(tmp_path)
    odd(Path(SERVING), kind)

    assert not is_served(tmp_path)


@pytest.mark.req("LOOP-1", "UX-1")
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_sign_that_is_no_file_is_named(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for: nobody ever writes into it."""
    monkeypatch.chdir(tmp_path)
    odd(Path(SIGN), kind)

    with pytest.raises(PrerequisiteError, match=rf"{SIGN}: (not a regular file|Is a directory)"):
        moved(tmp_path)


def odd(path: Path, kind: str) -> None:
    """Something in a file's place."""
    if kind == "link":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.mkdir()
