"""Which test proves which rule: reads `req` and `fault` marks by syntax tree and writes the pages of the docs.

A rule that has tests against a fake of something that cannot be had here says so under its heading.
`python -m hyops.testing.requirements --check` fails on a mark that names no rule; `--write` makes the pages.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hyops.errors import ConfigError
from hyops.testing.fakes_used import FakesUsed, tree_of

RULES = Path("docs/reference/rules.yml")
PAGES = Path("docs/reference")


@dataclass(frozen=True)
class Proof:
    """One mark: a rule's id or a fault's number, the test that carries it, and the fakes that this test uses."""

    kind: str
    name: str
    path: str
    line: int
    test: str
    says: str
    fakes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """The rules by group, the faults by number, and what each fake by its name cannot show."""

    groups: dict[str, dict[str, str]]
    faults: dict[str, str]
    fakes: dict[str, str] = field(default_factory=dict)

    def has(self, proof: Proof) -> bool:
        """Whether the mark names something that exists."""
        if proof.kind == "fault":
            return proof.name in self.faults
        return any(proof.name in rules for rules in self.groups.values())


def read_rules(path: Path) -> Rules:
    """Parse the list of rules.

    Raises:
        ConfigError: the file is absent or has another shape.
    """
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = {str(g): {str(k): str(v) for k, v in rules.items()} for g, rules in value["rules"].items()}
        faults, fakes = value["faults"], value.get("shown_against", {})
        return Rules(groups, {str(k): str(v) for k, v in faults.items()}, {str(k): str(v) for k, v in fakes.items()})
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as exc:
        raise ConfigError(f"{path}: not a list of rules: {exc}") from exc


def collect(tests: Path, fakes: Collection[str] = ()) -> list[Proof]:
    """Every mark on every test under `tests`, also those of a class or a whole module; with its test's `fakes`."""
    marks = [proof for path in sorted(tests.rglob("*.py")) for proof in _in_file(path, tests.parent)]
    used = FakesUsed(tests, fakes)
    of = functools.cache(used.by)
    return [replace(one, fakes=tuple(of(one.path, one.line))) for one in marks] if fakes else marks


def _in_file(path: Path, base: Path) -> Iterator[Proof]:
    tree = tree_of(path)
    where = path.relative_to(base).as_posix()
    shared = [
        mark
        for node in tree.body
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == "pytestmark" for t in node.targets)
        for mark in _marks(node.value.elts if isinstance(node.value, ast.List) else [node.value])
    ]
    yield from _in_body(tree.body, shared, where)


def _in_body(body: Sequence[ast.stmt], shared: list[tuple[str, str]], where: str) -> Iterator[Proof]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _in_body(node.body, shared + _marks(node.decorator_list), where)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            says = (ast.get_docstring(node) or "").strip().split("\n\n")[0].replace("\n", " ")
            for kind, name in sorted({*shared, *_marks(node.decorator_list)}):
                yield Proof(kind, name, where, node.lineno, node.name, says)


def _marks(nodes: Sequence[ast.expr]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for node in nodes:
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in {"pytest.mark.req", "pytest.mark.fault"}:
                kind = ast.unparse(call.func).rpartition(".")[2]
                found += [(kind, str(arg.value)) for arg in call.args if isinstance(arg, ast.Constant)]
    return found


def requirements_page(rules: Rules, proofs: Sequence[Proof]) -> str:
    """Rules with the tests that prove them, and first those that nothing proves."""
    known = {name: text for group in rules.groups.values() for name, text in group.items()}
    proved = {proof.name for proof in proofs if proof.kind == "req"}
    open_rules = [name for name in known if name not in proved]
    lines = [
        "# Requirements",
        "",
        "Made from the marks in the tests by `python -m hyops.testing.requirements --write`; do not edit.",
        "",
        f"{len(known) - len(open_rules)} of {len(known)} rules have a test; {len(open_rules)} have none yet:",
        ", ".join(f"[{name}](#{name.lower()})" for name in open_rules) + ".",
    ]
    for group, members in rules.groups.items():
        lines += ["", f"## {group}"]
        for name, text in members.items():
            lines += ["", f"### {name} {{ #{name.lower()} }}", "", text, ""]
            mine = [proof for proof in proofs if proof.kind == "req" and proof.name == name]
            lines += _shown_against(rules, mine)
            lines += [_bullet(proof) for proof in mine] or ["*Nothing proves this yet.*"]
    return "\n".join(lines) + "\n"


def faults_page(rules: Rules, proofs: Sequence[Proof]) -> str:
    """The fault matrix: what must come of it, and which tests show that."""
    lines = [
        "# Faults",
        "",
        "Faults that users will meet, with the outcome that the tests show. Made from the marks in the tests by",
        "`python -m hyops.testing.requirements --write`; do not edit.",
    ]
    for number, text in rules.faults.items():
        mine = [proof for proof in proofs if proof.kind == "fault" and proof.name == number]
        lines += ["", f"## {number}. {text.rstrip('.')}", ""]
        lines += [_bullet(proof) for proof in mine] or ["*No test shows this yet.*"]
    return "\n".join(lines) + "\n"


def _shown_against(rules: Rules, mine: Sequence[Proof]) -> list[str]:
    """How many of a rule's tests use a fake, which ones, and what these cannot show; nothing where none does."""
    with_fake = [proof for proof in mine if proof.fakes]
    if not with_fake:
        return []
    share = "All of its" if len(with_fake) == len(mine) else f"{len(with_fake)} of its {len(mine)}"
    names = sorted({name for proof in with_fake for name in proof.fakes})
    told = [f"    - `{name}`: {rules.fakes[name]}" for name in names]
    return ['!!! note "Shown against a fake"', "", f"    {share} tests use one:", "", *told, ""]


def _bullet(proof: Proof) -> str:
    against = f" <small>against {', '.join(f'`{name}`' for name in proof.fakes)}</small>" if proof.fakes else ""
    return f"- {proof.says or proof.test} <small>`{proof.path}::{proof.test}`</small>{against}"


def unknown(rules: Rules, proofs: Sequence[Proof]) -> list[str]:
    """Marks that name no rule or fault, and fakes that are listed and that no test uses."""
    used = {name for proof in proofs for name in proof.fakes}
    return [f"{p.path}:{p.line} {p.test}: no {p.kind} {p.name}" for p in proofs if not rules.has(p)] + [
        f"{RULES}: shown_against {name}: no marked test uses it" for name in rules.fakes if name not in used
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Check marks or write the pages; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hyops.testing.requirements", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="fail on a mark that names no rule")
    what.add_argument("--write", action="store_true", help="write requirements.md and faults.md")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository")
    options = parser.parse_args(words)
    rules = read_rules(options.root / RULES)
    proofs = collect(options.root / "tests", rules.fakes)
    faults = unknown(rules, proofs)
    for fault in faults:
        sys.stderr.write(fault + "\n")
    if options.write:
        for name, text in (("requirements", requirements_page(rules, proofs)), ("faults", faults_page(rules, proofs))):
            (options.root / PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    return 11 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
