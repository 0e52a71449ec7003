"""`hyops policy check` on the very files of the docs, on files that are no policies, and its two ways of telling."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import ANY

import pytest
import yaml

from hyops.cli.main import main
from hyops.control.proof.rules import RULES
from hyops_lab.wiring import service
from policy_files import FOLDER, dangerous, mended, written

PAGE = FOLDER.parent / "check-a-policy.md"
CATALOG = FOLDER.parents[2] / "catalog"
Captured = pytest.CaptureFixture[str]
LEAST = 12
SAFE: set[str] = set()


def told(capsys: Captured, *words: str) -> tuple[int, dict[str, object]]:
    """Exit code and what `--json` says of the one policy."""
    code = main(["policy", "check", *words, "--json"])
    (one,) = json.loads(capsys.readouterr().out)["policies"]
    return code, one


@pytest.mark.req("DEC-3", "DEC-4", "INV-2", "INV-5", "FEN-1", "UX-1")
@pytest.mark.parametrize(("name", "rule"), dangerous().items())
def test_a_dangerous_policy_is_refused_and_its_mended_twin_is_not(
    name: str, rule: str, tmp_path: Path, capsys: Captured
) -> None:
    """Each by the rule that the file itself names, at a line of that file, with a counterexample and a mend."""
    code, body = told(capsys, *written(name, tmp_path, twin=False))
    findings = [one for one in body["findings"] if one["rule"] == rule]  # type: ignore[attr-defined]

    assert code == 16
    assert findings, body["findings"]
    assert findings[0]["input"]
    assert findings[0]["mend"] == RULES[rule].mend
    lines = Path(findings[0]["path"]).read_text().splitlines()
    assert 1 <= findings[0]["line"] <= len(lines)

    twin = written(name, tmp_path, twin=True)
    key = "".join(Path(word).read_text() for word in twin if not word.startswith("-"))
    key = "\n".join(line for line in key.splitlines() if not line.startswith("#"))
    if key not in SAFE:  # most twins are one policy
        assert told(capsys, *twin) == (0, ANY)
        SAFE.add(key)


@pytest.mark.req("DEC-4", "UX-2")
def test_the_page_shows_every_dangerous_policy() -> None:
    """At least twelve, each linked from the page beside the rule that refuses it, and no rule twice."""
    page, found = PAGE.read_text(), dangerous()

    assert len(found) >= LEAST
    assert len(set(found.values())) == len(found)
    for name, rule in found.items():
        (row,) = [line for line in page.splitlines() if f"(policies/{name}." in line]
        assert f"`{rule}`" in row


@pytest.mark.req("UX-1")
def test_a_finding_names_the_line_of_its_key(tmp_path: Path, capsys: Captured) -> None:
    """For people: `file:line: rule: key: what is wrong`, the input and the mend."""
    (path,) = written("one-voice", tmp_path, twin=False)
    line = 1 + Path(path).read_text().splitlines().index("quorum: 1  # instead: quorum: 2")

    assert main(["policy", "check", path]) == 16
    said = capsys.readouterr().out

    assert f"{path}:{line}: act/one-vantage: quorum: " in said
    assert "\n  decision: failover (trigger, unplanned): onprem-db lost by " in said
    assert f"\n  mend: {RULES['act/one-vantage'].mend}\n" in said
    assert "home             -          failover (trigger, unplanned)" in said


@pytest.mark.req("DEC-4")
def test_the_policy_of_the_lab_is_safe(tmp_path: Path, capsys: Captured) -> None:
    """With its routes; and the table says how many situations it is about."""
    policy, routes = tmp_path / "pg.yml", tmp_path / "routes.yml"
    policy.write_text(json.dumps(service.policy()))
    routes.write_text(json.dumps(service.routes()))
    code, body = told(capsys, str(policy), "--routes", str(routes))
    probed = 4 * 3 + 1

    assert (code, body["findings"]) == (0, [])
    assert body["situations"] == 13**probed * 3 * 4


@pytest.mark.req("UX-1", "UX-2")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quorum: [", "expected"),
        ("just words\n", ":1: (top): Input should be an object"),
        ("", "empty"),
        (
            FOLDER.joinpath("safe.yml").read_text().replace("quorum: 2", "quorom: 2"),
            "quorom: unknown key; did you mean",
        ),
        (FOLDER.joinpath("safe.yml").read_text().replace("quorum: 2", "quorum: 9"), "quorum 9 is more than the 3"),
        (
            FOLDER.joinpath("safe.yml").read_text().replace("threshold: 1.5", "threshold: .nan"),
            ":39: signals.2.threshold: .nan",
        ),
        (FOLDER.joinpath("safe.yml").read_text().replace("quorum: 2", f"quorum: {'9' * 5000}"), ": quorum: 999"),
        *(
            (f"{FOLDER.joinpath('safe.yml').read_text()}{key}: {value}\n", f":57: {key}: Input should be less than or")
            for key in ("decision_max_age_s", "rpo_s")
            for value in ("1.0e+300", "1000000000000")
        ),
        (
            FOLDER.joinpath("safe.yml").read_text().replace("    timeout_s: 0.9", "    timeout_s: 100000", 1),
            ":25: signals.0.timeout_s: Input should be less than or equal to 86400",
        ),
        (
            FOLDER.joinpath("safe.yml").read_text().replace("    interval_s: 0.5", "    interval_s: 1.0e+300", 1),
            ":24: signals.0.interval_s: Input should be less than or equal to 86400",
        ),
    ],
)
def test_what_is_no_policy_is_a_config_error(text: str, said: str, tmp_path: Path, capsys: Captured) -> None:
    """Exit code 11 with the place and what is wrong."""
    path = tmp_path / "x.yml"
    path.write_text(text)

    assert main(["policy", "check", str(path)]) == 11
    heard = capsys.readouterr()
    assert heard.err.startswith(f"hyops: cannot read {path}")
    assert said in heard.err
    assert heard.out == ""


@pytest.mark.req("UX-1", "UX-2")
def test_the_other_files_are_checked_all_the_same(tmp_path: Path, capsys: Captured) -> None:
    """One that cannot be read beside one that is unsafe and one that is safe: 11, and both are told."""
    broken, safe = tmp_path / "x.yml", FOLDER / "safe.yml"
    broken.write_text("quorum: [")
    (unsafe,) = written("one-etcd", tmp_path, twin=False)

    assert main(["policy", "check", str(broken), unsafe, str(safe), "--quiet"]) == 11
    said = capsys.readouterr().out
    assert ": lease/quorum: " in said
    assert f"{safe}): safe; " in said


@pytest.mark.req("UX-1")
def test_a_file_that_is_not_there_is_a_config_error(tmp_path: Path, capsys: Captured) -> None:
    """For the policy as for the routes."""
    assert main(["policy", "check", str(tmp_path / "no.yml")]) == 11
    assert "No such file" in capsys.readouterr().err
    assert main(["policy", "check", str(FOLDER / "safe.yml"), "--routes", str(tmp_path)]) == 11
    assert "Is a directory" in capsys.readouterr().err


@pytest.mark.req("DSP-1", "UX-1")
def test_routes_are_planned_with_blueprints_of_ones_own(tmp_path: Path, capsys: Captured) -> None:
    """`--catalog` as the dispatcher's catalogs; without it the blueprint is unknown, at its line of the routes."""
    own = tmp_path / "own" / "blueprints" / "dr" / "ours@v1"
    own.mkdir(parents=True)
    text = (CATALOG / "blueprints" / "dr" / "postgresql-warm-promote@v1" / "blueprint.yml").read_text()
    (own / "blueprint.yml").write_text(text.replace("dr/postgresql-warm-promote@v1", "dr/ours@v1"))
    routes = tmp_path / "routes.yml"
    routes.write_text((FOLDER / "safe.routes.yml").read_text().replace("dr/postgresql-warm-promote@v1", "dr/ours@v1"))
    words = ["policy", "check", str(FOLDER / "safe.yml"), "--quiet"]

    assert main([*words, "--routes", str(routes)]) == 16
    said = capsys.readouterr().out
    assert (
        f"{routes}:6: route/denied: dispatcher_routes.failover.target_ref: failover: decided, and then denied" in said
    )
    assert main([*words, "--routes", str(routes), "--catalog", str(tmp_path / "own")]) == 0
    assert main([*words, "--catalog", str(tmp_path / "own")]) == 2


def test_the_twin_is_what_the_comments_say() -> None:
    """The reader of the marks: replaced, added, taken away."""
    text = "a: 1  # instead: a: 2\nb: 3\nc: 4  # instead:\n# instead: d: 5\n"

    assert mended(text) == "a: 2\nb: 3\nd: 5\n"
    assert yaml.safe_load(mended(text)) == {"a": 2, "b": 3, "d": 5}
