"""`hyops policy simulate`: recordings of every kind, what is no recording, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyops.cli.main import main
from hyops.compose_policy import policy_file
from hyops.model import canonical
from policy_files import FOLDER, written
from recording import Spell, samples_of, write
from simulation.world import World

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def pg(tmp_path: Path) -> Path:
    """A safe policy."""
    return Path(written("one-voice", tmp_path, twin=True)[0])


@pytest.fixture
def lines(tmp_path: Path, pg: Path) -> Path:
    """A minute in which the primary is lost."""
    policy, _ = policy_file(pg)
    return write(tmp_path / "rec.jsonl", samples_of(policy, 60, [Spell(30, 50, "lost")]))


def body(capsys: Captured, *words: str) -> list[dict[str, Any]]:
    """The replays of `--json`."""
    assert main(["policy", "simulate", *words, "--json"]) == 0
    replays: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["replays"]
    return replays


@pytest.mark.req("DEC-5", "UX-2")
def test_two_policies_are_compared_on_one_recording(pg: Path, lines: Path, tmp_path: Path, capsys: Captured) -> None:
    """The slower one decides later; the page shows both, and is the same when it is written again."""
    slow = tmp_path / "slow.yml"
    slow.write_text(pg.read_text().replace("confirm_for_s: 2", "confirm_for_s: 5"))
    words = [str(pg), "--inputs", str(lines), "--against", str(slow), "--html", str(tmp_path / "a.html")]
    first, second = body(capsys, *words)
    page = (tmp_path / "a.html").read_bytes()

    assert [one["at"][17:19] for one in (*first["decisions"], *second["decisions"])] == ["32", "35"]
    assert main(["policy", "simulate", *words]) == 0
    said = capsys.readouterr().out
    assert "one-voice: 1 failover" in said
    assert "slow: 1 failover" in said
    assert "lost for 20 s: confirmed" in said
    assert (tmp_path / "a.html").read_bytes() == page
    assert sorted(path.name for path in tmp_path.iterdir() if "html" in path.name) == ["a.html"]


@pytest.mark.req("DEC-5")
def test_only_the_end_of_a_recording_can_be_replayed(pg: Path, lines: Path, capsys: Captured) -> None:
    """`--since` counts back from its last sample, or from `--until`."""
    (late,) = body(capsys, str(pg), "--inputs", str(lines), "--since", "5s")
    (early,) = body(capsys, str(pg), "--inputs", str(lines), "--until", "2026-01-01T00:00:20Z")

    assert late["from"][17:19] == "54"
    assert (late["decisions"], early["decisions"]) == ([], [])


@pytest.mark.req("DEC-5")
def test_what_recorded_decisions_saw_is_replayed(tmp_path: Path, pg: Path, capsys: Captured) -> None:
    """The decision stage's own inputs give its decision again, and another one under a stricter policy."""
    world = World()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    (made,) = world.decisions()
    folder = tmp_path / "state" / "inputs"
    folder.mkdir(parents=True)
    for name, data in world.disk["inputs"].records.items():
        (folder / f"{name}.json").write_bytes(data)
    kept = json.loads(next(folder.iterdir()).read_text())["policy"]
    path = tmp_path / "kept.json"
    path.write_text(canonical.encode(kept).decode())

    (again,) = body(capsys, str(path), "--records", str(tmp_path / "state"))
    assert [(d["decision_type"], d["rationale"]) for d in again["decisions"]] == [("failover", made.rationale)]
    kept["confirm_for_s"] = 60.0
    path.write_text(canonical.encode(kept).decode())
    (slower,) = body(capsys, str(path), "--records", str(folder))
    assert slower["decisions"] == []


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no recording"),
        (["--inputs", "REC", "--since", "a month"], 2, "--since a month: write a number"),
        (["--inputs", "REC", "--since", "0d"], 2, "--since 0d"),
        (["--inputs", "REC", "--until", "2026-01-01T00:00:00"], 2, "needs a zone"),
        (["--inputs", "REC", "--until", "soon"], 2, "--until soon"),
        (["--inputs", "REC", "--until", "0001-01-01T00:00:00+05:00"], 2, "no time in UTC"),
        (["--inputs", "REC", "--until", "9999-12-31T23:59:59-05:00"], 2, "no time in UTC"),
        (["--inputs", "REC", "--query", "answers=up"], 2, "--query needs --prometheus"),
        (["--prometheus", "http://127.0.0.1:9", "--query", "answers"], 2, "write it as SIGNAL=PROMQL"),
        (["--prometheus", "127.0.0.1:9"], 11, "not an http or https address"),
        (["--prometheus", "http://127.0.0.1:9", "--query", "x=up"], 11, "no such signal"),
        (["--prometheus", "http://127.0.0.1:9", "--query", "answers=up", "--since", "9s"], 20, "ConnectError"),
        (["--inputs", "NONE"], 11, "No such file"),
        (["--records", "NONE"], 11, "No such file"),
        (["--records", "EMPTY"], 11, "no recorded inputs"),
        (["--inputs", "BAD"], 11, "bad.jsonl:2: "),
        (["--inputs", "OTHER"], 11, "nothing was recorded of answers, port, wal_received"),
        (["--inputs", "REC", "--html", "EMPTY/no/a.html"], 12, "No such file"),
    ],
)
def test_what_is_no_recording_is_told(
    words: list[str], code: int, said: str, pg: Path, lines: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Each with its exit code and what is wrong; nothing is written."""
    good = lines.read_bytes().splitlines(keepends=True)
    (tmp_path / "bad.jsonl").write_bytes(good[0] + b'{"vantage": 1}\n')
    (tmp_path / "other.jsonl").write_bytes(b"".join(good).replace(b'"signal":"', b'"signal":"x-'))
    (tmp_path / "empty").mkdir()
    names = {"REC": lines, "NONE": tmp_path / "none", "EMPTY": tmp_path / "empty", "BAD": tmp_path / "bad.jsonl"}
    names["OTHER"] = tmp_path / "other.jsonl"
    for name, path in names.items():
        words = [word.replace(name, str(path)) for word in words]
    before = sorted(tmp_path.rglob("*"))

    assert main(["policy", "simulate", str(pg), *words]) == code
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.req("DEC-5")
def test_a_line_that_was_being_written_is_not_one(pg: Path, lines: Path, capsys: Captured) -> None:
    """The recording of a probe that was killed: all but its last, torn line."""
    (whole,) = body(capsys, str(pg), "--inputs", str(lines))
    with lines.open("ab") as file:
        file.write(b'{"vantage": "cont')

    assert body(capsys, str(pg), "--inputs", str(lines)) == [whole]
    assert FOLDER.is_dir()
