"""Every rule's examples: the bad ones have exactly that finding in exactly the marked lines, the good ones none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyops.adapters.documents_files import FileDocuments
from hyops.lint.check import check
from hyops.lint.rules import RULES

EXAMPLES = Path(__file__).parents[3] / "docs" / "reference" / "lint" / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file())
BAD, GOOD = ([path for path in FILES if path.name.startswith(word)] for word in ("bad", "good"))


def marked(path: Path) -> list[int]:
    """The lines with `# here`; in a table the line after it; in examples of allowances the comments themselves."""
    lines = list(enumerate(path.read_text().splitlines(), start=1))
    if path.parent.name.startswith("allow-"):
        return [number for number, line in lines if "hyops-lint:" in line]
    return [number + (path.suffix == ".csv") for number, line in lines if "# here" in line]


@pytest.mark.req("DRIFT-1", "BP-1a")
@pytest.mark.parametrize("path", BAD, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_bad_example_has_its_findings_and_no_other(path: Path) -> None:
    """That rule, those lines, nothing else."""
    found = check(FileDocuments().read(path, named=True))

    assert {one.rule.replace("/", "-") for one in found} == {path.parent.name}
    assert [one.line for one in found] == marked(path)
    assert all(one.message and one.mend for one in found)


@pytest.mark.req("DRIFT-1", "BP-1a")
@pytest.mark.parametrize("path", GOOD, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_good_example_has_none(path: Path) -> None:
    """What the rule wants instead."""
    assert check(FileDocuments().read(path, named=True)) == []


@pytest.mark.req("DRIFT-1")
@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.slug)
def test_every_rule_has_both(rule: object) -> None:
    """A rule without an example of each kind is not finished."""
    names = [path.name for path in FILES if path.parent.name == rule.slug]  # type: ignore[attr-defined]

    assert {name.split(".")[0].split("-")[0] for name in names} == {"bad", "good"}


@pytest.mark.req("DRIFT-1", "BP-1a")
def test_the_shipped_catalogue_is_clean() -> None:
    """We keep our own rules."""
    reader, catalog = FileDocuments(), Path(__file__).parents[3] / "catalog"
    documents = [document for path in reader.find(catalog) for document in reader.read(path, named=False)]

    assert len(documents) >= 2
    assert check(documents) == []


def test_every_example_belongs_to_a_rule() -> None:
    """No folder is left over from a rule that is gone."""
    assert {path.parent.name for path in FILES} == {rule.slug for rule in RULES.values()}


@pytest.mark.req("DRIFT-1")
def test_all_examples_at_once_find_the_same() -> None:
    """Rules that look into other documents do not mix them up."""
    reader = FileDocuments()
    each = [check(reader.read(path, named=True)) for path in FILES]
    together = check([document for path in FILES for document in reader.read(path, named=True)])

    assert together == sorted(one for found in each for one in found)
