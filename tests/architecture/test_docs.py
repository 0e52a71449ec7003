"""What the docs tell people to type exists, and their links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from hyops.cli.table import GROUPS
from syntax import nodes

PAGES = ("README.md", "docs/**/*.md")
MADE = {"cli.md", "requirements.md", "faults.md", "exit-codes.md"}
# Not for people: `hyops.__main__` knows them.
INTERNAL = {"--help", "runner-serve", "runner-job", "runner-pull", "agent-call"}


def pages(root: Path) -> list[Path]:
    """Every page that a person wrote."""
    return [path for pattern in PAGES for path in sorted(root.glob(pattern)) if path.name not in MADE]


def typed(text: str) -> list[str]:
    """Every `hyops ...` command of a page, in code blocks and in the text."""
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(hyops [^`]+)`", prose)
    return [line for line in lines if line.startswith("hyops ")]


def fault_of(line: str) -> str | None:
    """Why a command cannot be typed; None when it can, or when its group is not part of this build."""
    words = shlex.split(line)[1:]
    if words in (["--version"], ["-V"], ["--help"], ["-h"]):
        return None
    words = words[: words.index("--")] if "--" in words else words  # what follows is another command's
    if words[0] not in GROUPS:
        return f"no command {words[0]!r}"
    module, attribute, _ = GROUPS[words.pop(0)]
    try:
        command: click.Command | None = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return None
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.commands.get(name)
        if command is None:
            return f"no command {name!r}"
    options = {opt for param in command.params for opt in param.opts} | {"--help"} if command else set()
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in options]
    return f"no option {', '.join(unknown)}" if unknown else None


@pytest.mark.req("UX-2")
def test_every_command_in_the_docs_can_be_typed(root: Path) -> None:
    """Commands and options that a page names exist in the command line."""
    faults = [
        f"{path.relative_to(root)}: `{line}`: {why}"
        for path in pages(root)
        for line in typed(path.read_text())
        if (why := fault_of(line)) is not None
    ]

    assert faults == []


ANY = "X"  # stands for what a message fills in


def told(path: Path) -> set[str]:
    """Every `hyops ...` command that a module's messages, hints and docstrings name."""
    found: set[str] = set()
    for node in nodes(path):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        found |= set(re.findall(r"`(hyops [^`]+)`", text))
    return found


@pytest.mark.req("UX-1", "UX-2")
def test_every_command_that_a_hint_names_can_be_typed(sources: dict[str, Path]) -> None:
    """An error that says what to do next names a command that exists."""
    lines = {line for path in sources.values() for line in told(path) if line.split()[1] not in {*INTERNAL, ANY}}

    assert len(lines) > 10
    assert {line: why for line in lines if (why := fault_of(line)) is not None} == {}


@pytest.mark.parametrize("line", ["hyops evidnce verify", "hyops evidence prove B", "hyops evidence verify B --kees k"])
def test_a_command_that_does_not_exist_is_seen(line: str) -> None:
    """The reader of the docs would notice a wrong group, command or option."""
    assert fault_of(line) is not None


def test_links_between_pages_lead_somewhere(root: Path) -> None:
    """Every relative link of a page names a file that is there."""
    lost = [
        f"{path.relative_to(root)} -> {target}"
        for path in pages(root)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
        if not target.startswith(("http:", "https:", "mailto:")) and not (path.parent / target).exists()
    ]

    assert lost == []


def test_docs_name_no_place_of_the_machine_they_were_written_on(root: Path) -> None:
    """Pages hold no path of a work place."""
    found = [
        str(path.relative_to(root)) for path in pages(root) if re.search(r"/work/|/root/|/home/\w", path.read_text())
    ]

    assert found == []
