"""Writes the pages that come from code: the command line, the exit codes and the rules of `hyops lint`.

Run by `python docs/_tools/reference.py`, and by mkdocs as a hook before each build together with the pages about
requirements and faults.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hyops import errors
from hyops.cli.main import root
from hyops.cli.table import GROUPS
from hyops.lint.rules import RULES, Rule
from hyops.testing import requirements

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "Made from the code by `python docs/_tools/reference.py`; do not edit."


def commands(command: click.Command, path: str, context: click.Context) -> Iterator[str]:
    """A section for a command and for each below it."""
    own = click.Context(command, info_name=path.split()[-1], parent=context)
    level = "#" * min(path.count(" ") + 1, 4)
    yield f"{level} {path}\n\n{(command.help or command.short_help or '').strip()}\n"
    usage = " ".join(command.collect_usage_pieces(own))
    yield f"```\n{path} {usage}\n```\n"
    rows = [record for param in command.get_params(own) if (record := param.get_help_record(own))]
    shown = [(a, b) for a, b in rows if not a.endswith("--help")]
    if shown:
        table = "\n".join(f"| `{a.replace('|', '&#124;')}` | {b.replace('|', '&#124;')} |" for a, b in shown)
        yield f"| option | meaning |\n| --- | --- |\n{table}\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(own):
            below = command.get_command(own, name)
            if below is not None and not below.hidden:
                yield from commands(below, f"{path} {name}", own)


def cli_page() -> str:
    """Every command that is installed."""
    parts = ["# Command line", NOTE, (root.help or "").strip()]
    context = click.Context(root, info_name="hyops")
    for name, (module, attribute, text) in sorted(GROUPS.items()):
        try:
            group = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            parts.append(f"## hyops {name}\n\n{text} *Not part of this build.*\n")
            continue
        parts += commands(group, f"hyops {name}", context)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def exit_codes_page() -> str:
    """The tree of errors by exit code: what happened, what was touched, what to do next."""
    rows = []
    for cls in sorted(_tree(errors.HyopsError), key=lambda c: (c.exit_code, c.__name__)):
        doc = (cls.__doc__ or "").strip().split("\n")[0]
        rows.append(f"| {cls.exit_code} | `{cls.__name__}` | {doc} | {cls.effect} | {cls.hint} |")
    return "\n".join(
        [
            "# Exit codes",
            "",
            NOTE,
            "",
            "`0` done · `2` usage · `10-19` nothing was changed · `20-29` failed under way · `30` a bug ·",
            "`40-49` done, but not proven · `130` cancelled. With `--json` the error is one JSON object",
            "with the same facts.",
            "",
            "| code | error | what happened | touched | what to do next |",
            "| ---: | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def lint_page() -> str:
    """Every rule of `hyops lint` with its examples."""
    parts = [
        "# Lint rules",
        NOTE,
        "What `hyops lint` objects to. A line with `# here` (in a table: the line after it) has the finding. "
        "An exception stands in the file, with its reason, on the line or alone above it: "
        "`# hyops-lint: allow RULE -- reason`.",
        "| rule | finding |\n| --- | --- |\n"
        + "\n".join(f"| [`{rule.id}`](#{rule.slug}) | {rule.title} |" for rule in RULES.values()),
    ]
    parts += [_lint_rule(rule) for rule in RULES.values()]
    return "\n\n".join(parts) + "\n"


def _lint_rule(rule: Rule) -> str:
    shown = []
    for path in sorted((REFERENCE / "lint" / "examples" / rule.slug).iterdir()):
        kind = "Found in" if path.name.startswith("bad") else "Clean"
        language = "text" if path.suffix == ".csv" else "yaml"
        shown.append(f"{kind} (`{path.name}`):\n\n```{language}\n{path.read_text(encoding='utf-8').strip()}\n```")
    head = f"## {rule.id} {{ #{rule.slug} }}\n\n**{rule.title}.** {rule.why}\n\nInstead: {rule.mend}."
    return "\n\n".join([head, *shown])


def _tree(cls: type[errors.HyopsError]) -> Iterator[type[errors.HyopsError]]:
    yield cls
    for below in cls.__subclasses__():
        if below.__module__ == "hyops.errors":
            yield from _tree(below)


def write() -> None:
    """Write all generated pages that differ from what stands."""
    rules = requirements.read_rules(ROOT / requirements.RULES)
    proofs = requirements.collect(ROOT / "tests", rules.fakes)
    pages = {
        "cli": cli_page(),
        "exit-codes": exit_codes_page(),
        "lint/index": lint_page(),
        "requirements": requirements.requirements_page(rules, proofs),
        "faults": requirements.faults_page(rules, proofs),
    }
    for name, text in pages.items():
        path = REFERENCE / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def on_pre_build(config: Any) -> None:
    """Called by mkdocs."""
    write()


if __name__ == "__main__":
    write()
    sys.exit(0)
