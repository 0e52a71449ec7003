"""The pages about requirements come from the marks, and a mark that names nothing is an error."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hyops.errors import ConfigError
from hyops.testing import requirements

ROOT = Path(__file__).parents[3]
RULES = "rules:\n  One:\n    AA-1: First.\n    AA-2: Second.\nfaults:\n  1: Something breaks.\n"
TEST = '''
import pytest
pytestmark = [pytest.mark.fault(1)]
class TestX:
    @pytest.mark.req("AA-1")
    def test_a(self):
        """It holds."""
'''
FAKES = RULES.replace("faults:", "shown_against:\n  FakeVault: Vault by its API.\nfaults:")
HELPER = """
from fakes.vault import FakeVault as V
import fakes.vault

class Site:
    def start(self): return V()

class Whole:
    def start(self): return fakes.vault.FakeVault()

class Other:
    def start(self): return 1
"""
SITE = "import pytest\nfrom kit import Site, Other\nimport kit\n"
SHOWN_AGAINST = (
    ("ACC-1", "FakeGce"),
    ("FEN-1", "PowerServer"),
    ("FEN-1", "power_switch_mode"),
    ("RUN-10", "TfcServer"),
    ("RUN-12", "FakeForge"),
    ("SEC-1", "FakeVault"),
    ("SEC-1", "FakeGsm"),
    ("SEC-1", "FakeAsm"),
    ("SEC-1", "FakeAkv"),
)
MARKED = '@pytest.mark.req("AA-1")\n'


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


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        (SITE + MARKED + "def test_a():\n    Site().start()\n", True),
        (SITE + MARKED + "def test_a():\n    kit.Whole().start()\n", True),
        (SITE + "@pytest.fixture\ndef site(): return Site()\n" + MARKED + "def test_a(site): ...\n", True),
        ("import pytest\n" + MARKED + "def test_a(vault): ...\n", True),
        (SITE + f"class TestX:\n    one = Site\n    {MARKED}    def test_a(self): ...\n", True),
        (SITE + f"class TestX(Site):\n    {MARKED}    def test_a(self): ...\n", True),
        ("import pytest\n" + MARKED + "def test_a():\n    from kit import Site\n    Site()\n", True),
        (SITE + MARKED + "def test_a():\n    Other().start()\n", False),
        (SITE + MARKED + 'def test_a():\n    """Not of Site or FakeVault."""\n', False),
        (SITE + f"class TestX:\n    {MARKED}    def test_a(self): ...\n    def test_b(self): Site()\n", False),
    ],
)
def test_a_fake_is_found_behind_what_a_test_names(project: Path, text: str, *, uses: bool) -> None:
    """By its class, a fixture, a helper in another file; not because a neighbour in the file uses it."""
    folder = project / "tests" / "part"
    folder.mkdir()
    (project / "docs/reference/rules.yml").write_text(FAKES)
    (project / "tests" / "test_x.py").write_text("import pytest\n\n@pytest.mark.fault(1)\ndef test_f(vault): ...\n")
    (project / "tests" / "conftest.py").write_text("from kit import Site\ndef vault(): return Site()\n")
    (project / "tests" / "kit.py").write_text(HELPER)
    (folder / "test_y.py").write_text(text)

    assert requirements.main(["--write", "--root", str(project)]) == 0
    heading, _, below = (project / "docs/reference/requirements.md").read_text().partition("### AA-2")

    assert ("All of its tests use one:\n\n    - `FakeVault`: Vault by its API." in heading) is uses
    assert ("test_a`</small> <small>against `FakeVault`</small>" in heading) is uses
    assert "FakeVault" not in below


def test_a_fake_that_no_test_uses_any_more_fails_the_check(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said of it would be about nothing."""
    (project / "docs/reference/rules.yml").write_text(FAKES)

    assert requirements.main(["--check", "--root", str(project)]) == 11
    assert "shown_against FakeVault: no marked test uses it" in capsys.readouterr().err


def test_every_fake_of_a_service_says_what_it_cannot_show() -> None:
    """Each class that serves in the place of something that cannot be had here is listed with its sentence."""
    known = requirements.read_rules(ROOT / requirements.RULES).fakes
    places = [*(ROOT / "tests" / "fakes").glob("*.py"), *(ROOT / "tests").glob("*_server.py")]
    classes = [one for path in places for one in ast.parse(path.read_text()).body if isinstance(one, ast.ClassDef)]
    serving = {one.name for one in classes if any(getattr(inner, "name", "") == "serve" for inner in one.body)}
    serving |= {one.name for one in classes if serving & {ast.unparse(base) for base in one.bases}}

    assert {"FakeVault", "TfcServer", "PowerServer"} <= serving
    assert serving - set(known) == set()


def test_this_projects_own_marks_name_rules_and_say_what_they_are_shown_against() -> None:
    """Every mark names a rule, every fake that is listed is used, and stands under the rules that it shows."""
    rules = requirements.read_rules(ROOT / requirements.RULES)
    proofs = requirements.collect(ROOT / "tests", rules.fakes)  # seconds of reading: once, in one test
    page = requirements.requirements_page(rules, proofs)

    assert requirements.unknown(rules, proofs) == []
    for rule, fake in SHOWN_AGAINST:
        heading = page.partition(f"\n### {rule} ")[2].partition("\n### ")[0]
        assert f"    - `{fake}`: {rules.fakes[fake]}\n" in heading, rule
