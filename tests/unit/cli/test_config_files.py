"""A file that a command is told to read and cannot: exit code 11 with file and mend, from every command (UX-1)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from hyops.cli.config_file import TO_READ
from hyops.cli.main import main, root
from hyops.cli.table import GROUPS

Make = Callable[[Path], Any]
DECIDE = ["--service", "pg", "--type", "failover"]
BLUEPRINT = ["core/noop@v1", "--root", ".", "--service", "pg"]
COMMANDS = [
    *(["service", "run", name] for name in ("decision", "dispatch", "approval", "execution", "fence-agent")),
    ["approval", "list"],
    ["approval", "show", "dispatch-1"],
    ["approval", "grant", "dispatch-1", "--key", "key"],
    ["approval", "verify"],
    ["decision", "request", *DECIDE],
    ["status"],
    ["run", "show", "run-1"],
    ["run", "cancel", "run-1", "--reason", "x"],
    ["run", "resume", "run-1"],
    ["run", "reconcile", "run-1"],
    ["runner", "status"],
    ["runner", "jobs"],
    ["runner", "gc"],
    ["fence", "init"],
    ["fence", "install-edge"],
]
FILES = [
    *([*words, "--config"] for words in COMMANDS),
    *(["runner", "blueprint", verb, *BLUEPRINT, "--decision-config"] for verb in ("preflight", "deploy")),
    ["decision", "replay"],
    ["decision", "explain"],
]
BAD: dict[str, tuple[Make, str]] = {
    "missing": (lambda path: None, "No such file"),
    "a-folder": (lambda path: path.mkdir(), "Is a directory"),
    "below-a-file": (lambda path: path.parent.touch(), "Not a directory"),
    "unreadable": (lambda path: path.write_text("{}"), "Permission denied"),
    "empty": (lambda path: path.write_text(""), ""),
    "not-json": (lambda path: path.write_text("api_version: hybridops/v1\n"), ""),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), ""),
    "torn": (lambda path: path.write_text('{"api_version": "hybridops/v1", '), ""),
    "not-an-object": (lambda path: path.write_text("[]"), ""),
    "something-else": (lambda path: path.write_text('{"colour": "red"}'), "colour"),
}


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a configuration fails as it does for a user without the right to; root has it always."""
    real = Path.read_bytes

    def refusing(path: Path) -> bytes:
        if path.name == "config.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)


@pytest.mark.req("UX-1", "UX-2", "INV-5")
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("words", FILES, ids=" ".join)
def test_a_file_that_cannot_be_read_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], case: str
) -> None:
    """Nothing was touched, the file is named, and what to do next stands beside it."""
    make, why = BAD[case]
    path = tmp_path / "stage" / "config.json"
    if case != "below-a-file":
        path.parent.mkdir()
    make(path)
    if case == "unreadable":
        unreadable(monkeypatch)
    code = main([*words, str(path)])
    err = capsys.readouterr().err

    assert (code, why in err) == (11, True), err
    assert str(path) in err
    assert "touched: none" in err
    assert "next: " in err
    assert "-config" in err or words[0] == "decision" or not why or why == "colour"


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("case", ["missing", "a-folder", "unreadable", "binary", "torn"])
def test_recorded_inputs_are_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """The file beside the record."""
    path = tmp_path / "config.json"
    BAD[case][0](path)
    good = tmp_path / "good.json"
    digest = "sha256:" + "0" * 64
    good.write_text(f'{{"decision_id":"d","decision_type":"hold","rationale":"x","inputs_digest":"{digest}"}}')
    if case == "unreadable":
        unreadable(monkeypatch)
    code = main(["decision", "replay", str(good), "--inputs", str(path)])
    err = capsys.readouterr().err

    assert (code, str(path) in err) == (11, True), err


def commands(group: click.Command, name: str = "hyops") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for word in group.list_commands(context):
            found = group.get_command(context, word)
            assert found is not None
            yield from commands(found, f"{name} {word}")
    else:
        yield name, group


@pytest.mark.req("UX-1")
def test_no_command_lets_click_judge_a_configuration() -> None:
    """Every option that names a configuration is read by who refuses it with 11; `hyops lab` is apart."""
    ours = [group for group, (module, _, _) in GROUPS.items() if module.startswith("hyops.")]
    context = click.Context(root)
    found = {
        (name, option)
        for group in ours
        for name, command in commands(root.get_command(context, group) or root, group)
        for parameter in command.params
        for option in parameter.opts
        if option.endswith("config") and parameter.type is not TO_READ
    }

    assert found == set()
    assert len(ours) > 10
