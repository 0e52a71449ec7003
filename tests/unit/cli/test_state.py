"""`hyops state`: what is shown, what programs read, and a conflict mended from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyops.cli.state import state as group
from hyops.errors import HyopsError
from state_kit import REF, Root, ended, net, state


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root with one state and one conflict over it."""
    root = Root(tmp_path / "lab")
    root.put(state(1, cidr="a", gateway="a"))
    plan = root.plan(net())
    root.put(state(2, cidr="b", gateway="a"))
    root.one(ended(plan, {"cidr": "c\nforged line", "gateway": "a"}, base=1))
    return root


def run(root: Root, *words: str) -> str:
    """One command, as it prints."""
    done = CliRunner().invoke(group, [*words, "--root", str(root.path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.req("RUN-6", "UX-2")
def test_a_conflict_from_list_to_mended(root: Root) -> None:
    """The list marks it, `conflicts` shows every side in one line a key, `resolve` mends it, and it is gone."""
    assert "! conflict" in run(root, "list")
    assert json.loads(run(root, "list", "--json"))["conflict"] is True
    shown = run(root, "conflicts").splitlines()
    assert shown[-1] == '  outputs.cidr: base "a", ours "b", theirs "c\\nforged line"'
    (told,) = [json.loads(line) for line in run(root, "conflicts", "--json").splitlines()]
    assert (told["keys"], told["resolution"]) == (["outputs.cidr"], None)
    assert "generation 3" in run(root, "resolve", told["conflict_id"], "--take", "theirs", "--by", "ada")
    assert run(root, "conflicts") == ""
    assert "ada took theirs" in run(root, "conflicts", "--all")
    assert json.loads(run(root, "show", REF))["outputs"]["cidr"] == "c\nforged line"
    assert [line.split()[:2] for line in run(root, "history", REF).splitlines()] == [
        ["ok", "1"],
        ["ok", "2"],
        ["ok", "3"],
    ]
    assert "conflict" not in run(root, "list")


@pytest.mark.req("ROOT-1", "UX-1")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["show", "platform/none"], 12),
        (["show", "../etc"], 2),
        (["history", "platform/none"], 12),
        (["resolve", "conflict-none", "--take", "ours"], 2),
        (["resolve", "../../x", "--take", "ours"], 2),
    ],
)
def test_what_is_not_there(root: Root, words: list[str], code: int) -> None:
    """Nothing was touched, and the exit code says so; an empty root has no state and no conflict."""
    done = CliRunner().invoke(group, [*words, "--root", str(root.path)])
    assert isinstance(done.exception, HyopsError)
    assert done.exception.exit_code == code
    bare = Root(root.path.parent / "bare")
    bare.path.mkdir()
    assert run(bare, "list") == run(bare, "conflicts") == ""
    assert list(bare.path.iterdir()) == []


def test_a_state_that_cannot_be_read_is_listed(root: Root) -> None:
    """One damaged file hides no other."""
    root.put(state(1, ref="platform/dns"), "platform/dns")
    (root.path / "state/modules/platform__net/instances/site-b.json").write_text("{")
    shown = run(root, "list")
    assert "unreadable" in shown
    assert "platform/dns " in shown
