"""Documents in, findings out: every rule on every document, then what comments allow (DRIFT-1, BP-1a)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass

from hyops.lint.look import Workspace
from hyops.lint.rules import RULES
from hyops.ports.documents import Allowance, Document

REASON_LETTERS_MIN = 3
TEXT_MAX = 300


@dataclass(frozen=True, order=True)
class Finding:
    """One defect: where it is, which rule says so, what it is and how to mend it."""

    path: str
    line: int
    rule: str
    key: str
    message: str
    mend: str

    def body(self) -> dict[str, object]:
        """For programs."""
        return asdict(self)


def check(documents: Sequence[Document], rules: Collection[str] = ()) -> list[Finding]:
    """The findings in all documents, by place; each at most once.

    Args:
        rules: ids to look for; all when empty. Only allowances of these can then be unused.
    """
    workspace, chosen = Workspace(documents), set(rules) or set(RULES)
    return sorted({finding for document in documents for finding in _findings(document, workspace, chosen)})


def _findings(document: Document, workspace: Workspace, chosen: set[str]) -> Iterator[Finding]:
    used: set[Allowance] = set()
    for rule in RULES.values():
        if rule.id not in chosen or rule.check is None:
            continue
        for hit in rule.check(document, workspace):
            line = hit.line or hit.node.line
            allowing = [
                one for one in document.allowances if one.covers == line and one.rule == rule.id and _whole(one)
            ]
            used.update(allowing)
            if not allowing:
                yield Finding(document.path, line, rule.id, _shown(hit.node.key), _shown(hit.message), rule.mend)
    yield from _allowed(document, used, chosen)


def _allowed(document: Document, used: set[Allowance], chosen: set[str]) -> Iterator[Finding]:
    """Findings about allowances; no comment allows these."""
    for one in document.allowances:
        if not _whole(one):
            rule, said = "allow/reason", _shown(_lack(one))
        elif one not in used and one.rule in chosen:
            rule, said = "allow/unused", f"no finding of {one.rule} in line {one.covers}"
        else:
            continue
        if rule in chosen:
            yield Finding(document.path, one.line, rule, "(comment)", said, RULES[rule].mend)


def _shown(text: str) -> str:
    """Words of a file as they may stand in a terminal or a log: short, in one line, without control characters."""
    plain = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[:TEXT_MAX])
    return plain + ("..." if len(text) > TEXT_MAX else "")


def _whole(one: Allowance) -> bool:
    """Whether it names a rule that can be allowed, and says why."""
    letters = sum(character.isalpha() for character in one.reason)
    known = one.rule in RULES and RULES[one.rule].check is not None
    return known and letters >= REASON_LETTERS_MIN


def _lack(one: Allowance) -> str:
    if not one.rule:
        return "this is not `# hyops-lint: allow RULE -- reason`"
    if one.rule not in RULES or RULES[one.rule].check is None:
        return f"{one.rule!r} is no rule that can be allowed"
    return f"{one.rule} is allowed without a reason"
