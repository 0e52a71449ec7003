"""No policy goes to a control host before it is proved to lead to nothing unsafe: what `hyops apply` looks at (DEC-4).

It is the proof of `hyops policy check`. A service of level `monitor` causes nothing, and is not proved. What was proved
before by this very hyops is not proved again: with a thousand services that is a quarter of an hour.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.control.proof.rules import Finding
    from hyops.engine.module_inputs import Where
    from hyops.model.policy import ServicePolicy

KEPT = Path("work", "proved")


def refuse_unsafe(
    policies: Sequence[tuple[ServicePolicy, Where]],
    accepted: Sequence[Mapping[str, str]],
    lines: Mapping[Where, int],
    source: Path,
    root: Path,
    tell: Callable[[str], None],
) -> None:
    """Return when each policy is proved, but for the findings that somebody lives with and says why.

    Args:
        policies: with the path in the inputs under which each stands.
        accepted: `service`, `rule`, `reason` and, where the rule is broken by several keys of the policy, the `key` of
            each finding that is lived with.
        lines: path in the inputs -> line.
        root: the runtime root, which keeps what was proved.
    Raises:
        UnsafePolicyError: one line per finding, `file:line: key: rule: what is wrong`; nothing was touched.
        ConfigError: what is accepted was not found; it would go unseen on the day it is there.
    """
    from hyops.control.proof.check import check
    from hyops.control.proof.waits import key_of
    from hyops.errors import ConfigError, UnsafePolicyError
    from hyops.model.vocabulary import Level

    asked_about = {one["service"] for one in accepted}
    found: list[_Found] = []
    proved: set[str] = set()
    acting = [(policy, where) for policy, where in policies if policy.level is not Level.MONITOR]
    version = _version() if acting else ""
    for policy, where in acting:
        name = _name(policy, version)
        if policy.service in asked_about or not (root / KEPT / name).is_file():
            findings = check(policy).findings
            found += [
                _Found(policy.service, one.rule, key_of(one.where), _said(one, where, lines, source))
                for one in findings
            ]
            tell(f"{policy.service}: {f'{len(findings)} finding(s)' if findings else 'proved safe'}")
            if findings:
                continue
        proved.add(name)
    with contextlib.suppress(OSError):  # the next apply proves them again
        _keep(root / KEPT, proved)
    covered = [[one for one in found if one.of(entry)] for entry in accepted]
    lived_with = {id(one) for of_one in covered for one in of_one if len(of_one) == 1}
    if refused := [one.said for one in found if id(one) not in lived_with]:
        several = [_several(number, of_one, lines, source) for number, of_one in enumerate(covered) if len(of_one) > 1]
        raise UnsafePolicyError("\n".join([*refused, *several]))
    for number, (entry, of_one) in enumerate(zip(accepted, covered, strict=True)):
        if not of_one:
            at = f"{source}:{lines.get(('accepted_findings', number), 1)}: accepted_findings.{number}"
            what = f"{entry['rule']} at {entry['key']}" if entry.get("key") else entry["rule"]
            said = f"{at}: {entry['service']} has no finding {what}"
            raise ConfigError(said, hint="take it out of accepted_findings; nothing was touched")
        for one in of_one:
            tell(f"accepted: {one.said}; because: {entry['reason']}")


@dataclass(frozen=True)
class _Found:
    """A finding of one service. `key`: of its policy; `said`: its line for people."""

    service: str
    rule: str
    key: str
    said: str

    def of(self, entry: Mapping[str, str]) -> bool:
        """Whether somebody says that this one is lived with; a key stands for all that is under it."""
        key = entry.get("key")
        under = not key or self.key == key or self.key.startswith(f"{key}.")
        return (self.service, self.rule) == (entry["service"], entry["rule"]) and under


def _several(number: int, found: Sequence[_Found], lines: Mapping[Where, int], source: Path) -> str:
    at = f"{source}:{lines.get(('accepted_findings', number), 1)}: accepted_findings.{number}"
    keys = ", ".join(one.key for one in found)
    return f"{at}: stands for {len(found)} findings; write one entry for each, with its key: {keys}"


def _said(one: Finding, where: Where, lines: Mapping[Where, int], source: Path) -> str:
    from hyops.control.proof.waits import key_of

    whole = (*where, *one.where)
    line = next((lines[whole[:n]] for n in range(len(whole), 0, -1) if whole[:n] in lines), 1)
    return f"{source}:{line}: {key_of(whole)}: {one.rule}: {one.message}; {one.mend}"


def _version() -> str:
    """Of the proof: by the files of what runs here."""
    from hyops.adapters.release_files import running

    return running().release_id


def _name(policy: ServicePolicy, version: str) -> str:
    from hyops.model import canonical

    return canonical.digest([version, policy.body()]).removeprefix("sha256:")


def _keep(folder: Path, proved: Collection[str]) -> None:
    """These and no others: it is only a cache."""
    from hyops.ownership import make_folder

    make_folder(folder, 0o700)
    for name in proved:
        (folder / name).touch(0o600)
    for other in folder.iterdir():
        if other.name not in proved:
            other.unlink(missing_ok=True)
