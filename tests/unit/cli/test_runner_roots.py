"""Every command of `hyops runner` takes `--root` and `--env` in the same way, and refuses two roots (RUN-4, ROOT-1)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hyops.cli.main import main
from hyops.cli.runner import runner
from hyops_lab.wiring import service

WITHOUT = {"signing-key": "it runs on a runner, as its user: there is no runtime root"}
ARGUMENTS = {
    "attach": ["run-1"],
    "blueprint deploy": ["core/noop@v1", "--service", "pg", "--yes"],
    "blueprint preflight": ["core/noop@v1", "--service", "pg"],
    "bootstrap": ["a-runner", "--files", "/nowhere", "--admin-key", "/nowhere"],
    "cancel": ["run-1", "--reason", "a test"],
    "collect": ["run-1", "--output", "/nowhere"],
    "doctor": [],
    "gc": [],
    "jobs": [],
    "list": [],
    "logs": ["run-1"],
    "status": [],
}
WITH_CONFIG = {name for name in ARGUMENTS if not name.startswith("blueprint")}
"""The others read the files of four stages, and hold each against the root: see the tests of `deploy`."""
STAGES = ("decision", "dispatch", "approval", "execution")


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below, by the words that one types."""
    for name, command in sorted(group.commands.items()):
        words = f"{above} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, words)
        else:
            yield words, command


EVERY = dict(commands(runner))
each_command = pytest.mark.parametrize("name", sorted(ARGUMENTS))


@pytest.fixture(autouse=True)
def _nothing_is_selected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HYOPS_RUNTIME_ROOT", "HYOPS_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for env in ("one", "two"):
        (tmp_path / ".hybridops" / "envs" / env).mkdir(parents=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The executor's file, of the environment `one`; it has no runners."""
    protected = {"policy": service.policy()}
    common = {
        "api_version": "hybridops/v1",
        "homes": {name: str(tmp_path / name) for name in STAGES},
        "signing_key": str(tmp_path / "key.pem"),
        "trusted_keys": str(tmp_path / "trusted_keys.json"),
        "runtime_root": str(tmp_path / ".hybridops" / "envs" / "one"),
    }
    (tmp_path / "trusted_keys.json").write_text('{"keys": []}')
    path = tmp_path / "execution.json"
    path.write_text(json.dumps({**common, "kind": "DecisionExecutor", "protected": [protected], "runners": {}}))
    return path


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, on both streams, on one line."""
    said = capsys.readouterr()
    return " ".join((said.out + said.err).split())


@pytest.mark.req("RUN-4", "ROOT-1")
def test_no_command_is_forgotten() -> None:
    """The table has every command of the tree, or the reason why it has none of the options."""
    assert set(EVERY) == set(ARGUMENTS) | set(WITHOUT)


@pytest.mark.req("RUN-4", "ROOT-1")
@each_command
def test_every_command_takes_the_same_two_options(name: str) -> None:
    """The same declarations, types, defaults and words."""
    same = {"root": (["--root"], "directory", False), "env": (["--env"], "text", False)}
    of_deploy = {one.name: one.help for one in EVERY["blueprint deploy"].params if isinstance(one, click.Option)}
    found = {one.name: one for one in EVERY[name].params if one.name in same}

    assert {key: (list(one.opts), one.type.name, one.required) for key, one in found.items()} == same
    assert {key: one.help for key, one in found.items() if isinstance(one, click.Option)} == {
        key: of_deploy[key] for key in same
    }


@pytest.mark.req("RUN-4", "ROOT-1", "UX-1")
@each_command
def test_two_roots_are_refused(name: str, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is read or dialled: a usage error, in the same words."""
    selected = ["--root", str(tmp_path), "--env", "one"]

    assert main(["runner", *name.split(), *ARGUMENTS[name], *of(name, config), *selected]) == 2
    assert "--root and --env exclude each other" in told(capsys)


@pytest.mark.req("RUN-4", "ROOT-1", "UX-1")
@pytest.mark.parametrize("name", sorted(WITH_CONFIG))
@pytest.mark.parametrize("way", ["--root", "--env", "HYOPS_RUNTIME_ROOT", "HYOPS_ENV"])
def test_the_configuration_of_another_root_is_refused(
    name: str,
    way: str,
    tmp_path: Path,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the other one was selected; both are named, and nobody was dialled."""
    other = tmp_path / ".hybridops" / "envs" / "two"
    value = str(other) if "ROOT" in way.upper() else "two"
    if way.startswith("--"):
        words = [way, value]
    else:
        words = []
        monkeypatch.setenv(way, value)

    code = main(["runner", *name.split(), *ARGUMENTS[name], *of(name, config), *words])

    said = told(capsys)
    assert code == 11, said
    assert f"runtime_root is {other.with_name('one')}, and {other} is selected" in said


@pytest.mark.req("RUN-4", "ROOT-1", "UX-1")
@each_command
def test_a_root_that_is_not_there_is_refused(
    name: str, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the two options as what to look at."""
    assert main(["runner", *name.split(), *ARGUMENTS[name], *of(name, config), "--env", "three"]) == 12
    assert "no such runtime root" in told(capsys)


@pytest.mark.req("RUN-4", "ROOT-1")
@pytest.mark.parametrize("words", [[], ["--env", "one"]], ids=["none selected", "its own"])
@pytest.mark.parametrize("name", ["list", "status", "jobs", "doctor", "gc"])
def test_its_own_root_or_none_is_as_good(name: str, words: list[str], config: Path) -> None:
    """What asks runners needs no root, and takes the one that the configuration is about."""
    assert main(["runner", name, *of(name, config), *words]) == 0


def of(name: str, config: Path) -> list[str]:
    """The words that name the executor's file."""
    return ["--config", str(config)] if name in WITH_CONFIG else []
