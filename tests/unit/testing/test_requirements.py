"""The pages about requirements come from the marks, and a mark that names nothing is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyops.errors import ConfigError
from hyops.testing import requirements

RULES = "rules:\n  One:\n    AA-1: First.\n    AA-2: Second.\nfaults:\n  1: Something breaks.\n"
TEST = '''
import pytest
pytestmark = [pytest.mark.fault(1)]
class TestX:
    @pytest.mark.req("AA-1")
    def test_a(self):
        """It holds."""
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with two rules and one test."""
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    (tmp_path / "docs" / "reference" / "rules.yml").write_text(RULES)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(TEST)
    return tmp_path


def test_the_pages_name_what_is_proved_and_what_is_not(project: Path) -> None:
    """A rule shows its tests by their docstrings; one without a test is listed as open."""
    assert requirements.main(["--write", "--root", str(project)]) == 0
    page = (project / "docs/reference/requirements.md").read_text()
    faults = (project / "docs/reference/faults.md").read_text()

    assert "1 of 2 rules have a test; 1 have none yet:\n[AA-2](#aa-2)." in page
    assert "- It holds. <small>`tests/test_x.py::test_a`</small>" in page
    assert "- It holds." in faults


@pytest.mark.parametrize("mark", ['pytest.mark.req("AA-9")', "pytest.mark.fault(7)"])
def test_a_mark_that_names_nothing_fails_the_check(
    project: Path, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says which test carries it."""
    (project / "tests" / "test_y.py").write_text(f'import pytest\n\n@{mark}\ndef test_y():\n    """Y."""\n')

    assert requirements.main(["--check", "--root", str(project)]) == 11
    assert "tests/test_y.py:4 test_y" in capsys.readouterr().err


def test_a_list_of_rules_of_another_shape_is_refused(project: Path) -> None:
    """A damaged list is a config error, not an empty list."""
    (project / "docs/reference/rules.yml").write_text("rules: []\n")

    with pytest.raises(ConfigError, match="not a list of rules"):
        requirements.main(["--check", "--root", str(project)])


def test_every_mark_of_this_project_names_a_rule() -> None:
    """The project's own marks are known."""
    root = Path(__file__).parents[3]
    rules = requirements.read_rules(root / requirements.RULES)

    assert requirements.unknown(rules, requirements.collect(root / "tests")) == []
