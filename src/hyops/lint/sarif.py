"""Findings as SARIF 2.1.0 (OASIS), which forges and editors show beside the line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from hyops._version import __version__
from hyops.lint.check import Finding
from hyops.lint.rules import RULES

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"


def sarif(findings: Sequence[Finding], faults: Sequence[tuple[str, int, str]] = ()) -> dict[str, Any]:
    """One run of the tool. `faults` are inputs that could not be read: path, line, what is wrong."""
    ids = list(RULES)
    notes = [
        {"level": "error", "message": {"text": said}, "locations": [_place(path, line)]} for path, line, said in faults
    ]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "hyops lint", "version": __version__, "rules": _rules()}},
                "columnKind": "unicodeCodePoints",
                "invocations": [{"executionSuccessful": not faults, "toolExecutionNotifications": notes}],
                "results": [
                    {
                        "ruleId": one.rule,
                        "ruleIndex": ids.index(one.rule),
                        "level": "error",
                        "message": {"text": f"{one.key}: {one.message}; {one.mend}"},
                        "locations": [_place(one.path, one.line)],
                    }
                    for one in findings
                ],
            }
        ],
    }


def _rules() -> list[dict[str, Any]]:
    return [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.why},
            "help": {"text": rule.mend},
            "defaultConfiguration": {"level": "error"},
        }
        for rule in RULES.values()
    ]


def _place(path: str, line: int) -> dict[str, Any]:
    uri = quote(path.removeprefix("./"), safe="/")
    uri = f"file://{uri}" if uri.startswith("/") else uri
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}}
