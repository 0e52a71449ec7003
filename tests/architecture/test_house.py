"""Rules of the house that a reader would otherwise have to remember."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from syntax import nodes

CODE_LINES_MAX = 300
FUNCTION_LINES_MAX = 60
REAL_PAUSES = {
    "waiting.py:wait_for": "a server that starts tells nobody; bounded",
    "waiting.py:until": "what runs beside the test in real time tells nobody; bounded",
    "waiting.py:throughout": "that a thing does not happen shows only in time in which it could",
    "waiting.py:stand_still": "the pause itself is tested; each call says for whom time passes",
    "waiting.py:let_pass": "somebody else's clock has to move; each call says whose",
    "unit/adapters/test_frames_fuzz.py:_take": "on a loop whose time jumps: nobody waits",
    "unit/services/test_looking.py:passes": "on a loop whose time jumps: nobody waits",
    "integration/runner/job_entry.py:sleep": "the port's own method on the system's clock",
}
"""Where tests may sleep, and why. Everybody else calls one of these, or better: waits for an event."""


def code_lines(text: str) -> int:
    """Lines that are neither blank, comment nor docstring."""
    quiet: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            quiet |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(1 for n, line in lines if line.strip() and not line.strip().startswith("#") and n not in quiet)


def test_modules_stay_small(sources: dict[str, Path]) -> None:
    """Past 300 code lines a module holds a second idea."""
    sizes = {name: code_lines(path.read_text()) for name, path in sources.items() if ".testing" not in name}

    assert {name: size for name, size in sizes.items() if size > CODE_LINES_MAX} == {}


def test_functions_fit_a_screen(sources: dict[str, Path]) -> None:
    """A function that does not fit a screen has a helper in it that wants out."""
    long = [
        f"{name}:{node.lineno} {node.name} ({(node.end_lineno or 0) - node.lineno + 1} lines)"
        for name, path in sources.items()
        if ".testing" not in name
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]

    assert long == []


def test_every_test_says_what_it_shows(root: Path) -> None:
    """Each test has a docstring of its own."""
    silent = [
        f"{path.relative_to(root)}:{node.lineno} {node.name}"
        for path in sorted((root / "tests").rglob("test_*.py"))
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def sleeps(text: str, name: str) -> set[str]:
    """`file:function` of every pause of a length: `sleep` of any module, and an event nobody sets, waited for a time.

    `sleep(0)` is a turn for other tasks and no pause.
    """
    found: set[str] = set()
    if "sleep" not in text and "Event" not in text:
        return found  # most files; their trees need no walk

    def look(node: ast.AST, function: str) -> None:
        function = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            pause = called.split(".")[-1] == "sleep" and "clock" not in called  # clocks are fakes
            pause = pause and [ast.unparse(arg) for arg in node.args] != ["0"]
            if pause or (called.endswith("Event().wait") and (node.args or node.keywords)):
                found.add(f"{name}:{function}")
        for child in ast.iter_child_nodes(node):
            look(child, function)

    look(ast.parse(text), "")
    return found


def test_no_test_sleeps(root: Path) -> None:
    """Tests wait for events or move a fake clock. The list is exact: what sleeps elsewhere is refused."""
    tests = root / "tests"
    found = {
        place for path in tests.rglob("*.py") for place in sleeps(path.read_text(), path.relative_to(tests).as_posix())
    }

    assert found == set(REAL_PAUSES)


def test_every_pause_of_a_test_says_why(root: Path) -> None:
    """Whoever lets real time pass says in words for whom."""
    pauses = {"stand_still", "let_pass"}
    calls = [
        (f"{path.name}:{node.lineno}", [arg.value for arg in node.args[1:] if isinstance(arg, ast.Constant)])
        for path in (root / "tests").rglob("*.py")
        if any(pause in path.read_text() for pause in pauses)
        for node in nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in pauses
    ]

    assert calls
    assert [place for place, why in calls if len(why) != 1 or len(str(why[0]).split()) < 4] == []


@pytest.mark.parametrize(
    "text",
    [
        "time.sleep(1)",
        "await asyncio.sleep(0.01)",
        "sleep(x)",
        "threading.Event().wait(0.5)",
        "Event().wait(timeout=1)",
    ],
)
def test_a_sleep_is_seen_in_every_disguise(text: str) -> None:
    """By its module or its name, or as an event that nobody sets (the guard of this guard)."""
    assert sleeps(f"async def f():\n    {text}", "t") == {"t:f"}
    assert sleeps("async def f():\n    await asyncio.sleep(0)\n    await Event().wait()", "t") == set()


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
def test_no_connection_skips_host_keys(sources: dict[str, Path]) -> None:
    """`known_hosts=None`, agent forwarding and the user's own SSH config appear nowhere."""
    banned = {"known_hosts": {None}, "agent_forwarding": {True}}
    found = []
    for name, path in sources.items():
        text = path.read_text()
        assert "StrictHostKeyChecking=no" not in text, name
        assert "StrictHostKeyChecking no" not in text, name
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            given = {kw.arg: kw.value.value for kw in node.keywords if isinstance(kw.value, ast.Constant)}
            found += [f"{name}:{node.lineno}" for arg, values in banned.items() if given.get(arg, "-") in values]
            connects = isinstance(node.func, ast.Attribute) and ast.unparse(node.func).startswith("asyncssh.connect")
            names = {kw.arg for kw in node.keywords}
            if connects and None not in names and not {"known_hosts", "config", "agent_path"} <= names:
                found.append(f"{name}:{node.lineno} leaves known_hosts, config or agent_path to chance")

    assert found == []


CATCH_ALLS = {
    "hyops.cli.main:main": "the CLI's main",
    "hyops.errors:foreign": "what a driver or an adapter raises becomes a HyopsError; everybody else calls this",
    "hyops.services.loop:_steps": "a service's loop",
    "hyops.services.loop:_kept_up": "a service's loop",
    "hyops.fence.agent:_safe_turn": "a service's loop: closes the edge whatever failed",
    "hyops.adapters.probes_stream:_look": "an adapter's translation: what cannot be measured is unknown",
    "hyops.adapters.authority_asm:run": "an adapter's translation: raised where it is waited for",
}
"""Where everything may be caught, and which of the homes it is. A new one needs a reason here; try `foreign` first."""


def catch_alls(text: str, name: str) -> set[str]:
    """`module:function` of every handler, and every `suppress`, that takes any error."""
    found: set[str] = set()

    def everything(node: ast.expr | None) -> bool:
        kinds = node.elts if isinstance(node, ast.Tuple) else [node]
        return any(kind is None or ast.unparse(kind).split(".")[-1] in {"Exception", "BaseException"} for kind in kinds)

    def look(node: ast.AST, function: str) -> None:
        function = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        handler = isinstance(node, ast.ExceptHandler) and everything(node.type)
        quiet = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress"
        if handler or (quiet and any(map(everything, node.args))):
            found.add(f"{name}:{function}")
        for child in ast.iter_child_nodes(node):
            look(child, function)

    look(ast.parse(text), "")
    return found


def test_everything_is_caught_in_its_homes_alone(sources: dict[str, Path]) -> None:
    """The list is exact: a catch-all elsewhere is refused, and a place that has none any more leaves the list."""
    found = {place for name, path in sources.items() for place in catch_alls(path.read_text(), name)}

    assert found == set(CATCH_ALLS)


@pytest.mark.parametrize(
    "text",
    [
        "try: x()\nexcept: pass",
        "try: x()\nexcept Exception: pass",
        "try: x()\nexcept (OSError, builtins.BaseException) as exc: raise",
        "try: x()\nexcept* Exception: pass",
        "with contextlib.suppress(OSError, Exception): x()",
    ],
)
def test_a_catch_all_is_seen_in_every_disguise(text: str) -> None:
    """Bare, in a tuple, in a group, suppressed (the guard of this guard)."""
    indented = "\n".join(f"    {line}" for line in text.splitlines())

    assert catch_alls(f"def f():\n{indented}", "m") == {"m:f"}
    assert catch_alls(f"def f():\n{indented.replace('Exception', 'ValueError')}", "m") == (
        {"m:f"} if "except:" in text else set()
    )


def test_decision_records_are_numbered_indexed_and_whole(root: Path) -> None:
    """ADRs count from 0001 without a gap, stand in the index, and each has its five parts."""
    folder = root / "docs" / "adr"
    numbered = sorted(path for path in folder.glob("*.md") if path.name != "index.md")
    index = (folder / "index.md").read_text()

    assert [path.name[:4] for path in numbered] == [f"{n:04d}" for n in range(1, len(numbered) + 1)]
    for path in numbered:
        text = path.read_text()
        assert f"({path.name})" in index, path.name
        for part in ("## Context", "## Options", "## Decision", "## Consequences", "## The sign that we were wrong"):
            assert part in text, f"{path.name} lacks {part}"
        options = text.split("## Options")[1].split("## Decision")[0]
        assert len(re.findall(r"^\d\. |^- ", options, re.MULTILINE)) >= 2, f"{path.name} has fewer than two options"


def test_fragments_of_the_changelog_are_named_and_short(root: Path) -> None:
    """`<slug>.<added|changed|fixed|removed|security>.md`, one sentence for the operator."""
    for path in (root / "changelog.d").glob("*.md"):
        if path.name == "README.md":
            continue
        assert re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md", path.name), path.name
        assert 0 < len(path.read_text().strip().splitlines()) <= 3, path.name
