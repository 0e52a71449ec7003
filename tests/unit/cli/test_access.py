"""`hyops access`: what a person may ask for, and what is refused before anything is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from access_kit import BASTION, run_of
from hyops import compose_access
from hyops.cli.access import access
from hyops.errors import ConfigError, HyopsError, PrerequisiteError, RecordError, UnsafePlanError, UsageError
from hyops.model.vocabulary import ExecutionPlane
from hyops.runner.config import RunnerConfig


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A runner with a bastion."""
    login = {"key_file": "/etc/hyops/target_key", "known_hosts": "/etc/hyops/known_hosts"}
    body: dict[str, Any] = dict.fromkeys(("root", "signing_key", "trusted_keys", "allowed_signers"), "/nonexistent")
    options = {"targets": login, "access": {"bastions": {"jump": BASTION}, "bastion": "jump"}}
    path = tmp_path / "runner.json"
    path.write_text(json.dumps({**body, "runner_ref": "cloud-runner", "site": "cloud", "options": options}))
    return path


def refused(*words: str) -> BaseException | None:
    """How a command of `hyops access` ended."""
    return CliRunner().invoke(access, list(words)).exception


@pytest.mark.req("VOC-3", "ACC-2")
def test_a_workstation_is_refused_where_a_person_types_it(config: Path) -> None:
    """By name, as an unsafe plan; a plan's own plane comes from its route, which takes none either."""
    assert isinstance(refused("check", "workstation-direct", "--config", str(config)), UnsafePlanError)


@pytest.mark.req("ACC-1", "ACC-2")
@pytest.mark.parametrize("plane", list(ExecutionPlane))
def test_every_plane_has_its_own_mode_and_no_other(config: Path, plane: ExecutionPlane) -> None:
    """What serves a plane says so itself."""
    assert compose_access.mode_of(RunnerConfig.load(config), run_of(plane)).plane is plane


@pytest.mark.parametrize(
    ("words", "kind", "why"),
    [
        (["check", "runner-local", "--target", "cloud-db"], ConfigError, "HOST=ADDRESS"),
        (["check", "private-overlay"], PrerequisiteError, "overlay-defined"),
        (["check", "gcp-iap"], PrerequisiteError, "instance-defined"),
        (["check", "public-ephemeral"], PrerequisiteError, "occasion-allowed"),
        (["check", "bastion-explicit", "--failed-site", "edge"], PrerequisiteError, "bastion-outside-failed-site"),
    ],
)
def test_a_check_is_refused_by_its_prerequisite(
    config: Path, words: list[str], kind: type[HyopsError], why: str
) -> None:
    """The same words as a run's refusal."""
    found = refused(*words, "--config", str(config))

    assert isinstance(found, kind)
    assert why in str(found)


def test_a_desk_that_is_wrong_or_missing_is_named(tmp_path: Path) -> None:
    """The file and what is wrong with it; one grant or all, never neither."""
    path = tmp_path / "access.json"
    missing = refused("list", "--config", str(path))
    path.write_text('{"kind": "AccessDesk"}')
    wrong = refused("list", "--config", str(path))

    assert isinstance(missing, ConfigError)
    assert str(path) in str(missing)
    assert isinstance(wrong, RecordError)
    assert "guarded" in str(wrong)
    assert isinstance(refused("remove", "--config", str(path)), UsageError)
    assert isinstance(refused("remove", "g1", "--all", "--config", str(path)), UsageError)
