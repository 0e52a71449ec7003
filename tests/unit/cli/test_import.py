"""`hyops import` as it is typed: the result apart from the losses, and never over another file (CAT-5, UX-1, UX-2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyops.cli.main import main
from hyops.model.decision import Decision
from hyops.model.routes import Routes

OLD = """\
{
  "decision_id": "decision-20260313T041204Z-cutover-b8239f1f",
  "decision_type": "cutover",
  "rationale": "primary lost",
  "degraded": true
}
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A decision record of an older hybridops."""
    path = tmp_path / "old.json"
    path.write_text(OLD)
    return path


@pytest.mark.req("CAT-5", "UX-2")
def test_the_result_goes_to_one_place_and_the_losses_to_another(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that the result can go on through a pipe, and a person still reads what it lost."""
    code = main(["import", "decision", str(old), "--service", "pg"])
    out, err = capsys.readouterr()

    assert code == 0
    assert Decision.of(json.loads(out)).source_decision_type == "cutover"
    assert "lossy: line 5: degraded: was True -> left out" in err
    assert "import: 2 lossy point(s)" in err


@pytest.mark.req("CAT-5", "UX-2")
def test_programs_get_both(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON value with what was made and what was lost."""
    assert main(["import", "decision", str(old), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert told["made"]["decision_type"] == "failover"
    assert [point["key"] for point in told["lossy"]] == ["degraded", "generation", "service"]


@pytest.mark.req("CAT-5", "INV-8")
def test_a_key_of_an_old_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line end in it makes no second loss, and an escape moves no cursor."""
    told = {**json.loads(OLD), "a\nlossy: line 1: b": "\x1b[2J"}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(told))

    assert main(["import", "decision", str(path)]) == 0
    err = capsys.readouterr().err
    assert "a\\nlossy: line 1: b: was \\x1b[2J -> left out" in err
    assert "\nlossy: line 1: b" not in err


@pytest.mark.req("CAT-5", "UX-1")
def test_a_file_that_is_there_stays_as_it_is(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first is written whole, the second is refused, and nothing lies beside it."""
    out = tmp_path / "new.json"
    assert main(["import", "decision", str(old), "--out", str(out)]) == 0
    first = out.read_bytes()

    assert main(["import", "decision", str(old), "--service", "pg", "--out", str(out)]) == 12
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.json", "old.json"]


@pytest.mark.req("CAT-5", "UX-1")
@pytest.mark.parametrize(
    ("text", "words", "code", "told"),
    [
        ("[1]", ["decision"], 11, "a mapping is needed, not a list"),
        ("{", ["state"], 11, "old.json:1"),
        ("", ["routes"], 11, "empty"),
        ("a: &x 1\nb: *x\n", ["routes"], 11, "aliases"),
        (OLD, ["routes"], 11, "dispatcher_routes: it is missing"),
        (OLD, ["routes", "--runner-ref", "failover"], 2, "TYPE=RUNNER"),
    ],
)
def test_a_file_that_is_none_is_refused(
    old: Path, text: str, words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """File, line and mend; nothing on standard output."""
    old.write_text(text)

    assert main(["import", words[0], str(old), *words[1:]]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


@pytest.mark.req("CAT-5", "DSP-1")
def test_the_routes_of_an_old_dispatcher_are_ours_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its module inputs, as its documentation shows them."""
    path = tmp_path / "inputs.min.yml"
    path.write_text(
        "inventory_groups:\n  edge_control:\n    - name: control-01\n      host: 198.51.100.10\n"
        "dispatcher_execution_mode: record-only\ndispatcher_require_approval: true\ndispatcher_routes:\n"
        "  cutover:\n    target_kind: blueprint\n    target_ref: dr/postgresql-ha-failover-gcp@v1\n"
        "    target_env: dev\n    execution_plane: runner-local\n    requires_approval: true\n"
    )

    assert main(["import", "routes", str(path), "--runner-ref", "cutover=gcp-ops-runner"]) == 0
    out, err = capsys.readouterr()
    assert Routes.of(json.loads(out)).env == "dev"
    assert "lossy: line 1: inventory_groups: was a mapping of 1 -> left out" in err


@pytest.mark.req("CAT-5", "DSP-1")
def test_a_route_to_a_module_that_no_runner_runs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With those of the catalogue that one does run; a part of a switch with the blueprint to take instead."""
    for ref, told in (
        ("platform/network/dns-routing", "those that a runner runs by themselves: native/count-loss, native/noop"),
        ("native/dns-cutover", "such as dr/postgresql-warm-promote@v1"),
        ("native/noop", "import: 0 lossy point(s)"),
    ):
        path = tmp_path / "inputs.yml"
        path.write_text(
            "dispatcher_routes:\n  cutover:\n    target_kind: module\n"
            f"    target_ref: {ref}\n    target_env: dev\n    execution_plane: runner-local\n"
        )
        assert main(["import", "routes", str(path), "--runner-ref", "cutover=gcp-ops-runner"]) == 0
        out, err = capsys.readouterr()
        assert Routes.of(json.loads(out)).dispatcher_routes
        assert told in err
        assert ("lossy: line 4: dispatcher_routes.cutover.target_ref: was" in err) is (ref != "native/noop")
