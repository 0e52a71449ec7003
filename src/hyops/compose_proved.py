"""No policy goes to a control host before it is proved to lead to nothing unsafe: what `hyops apply` looks at (DEC-4).

It is the proof of `hyops policy check`. A service of level `monitor` causes nothing, and is not proved. What was proved
before by this very hyops is not proved again: with a thousand services that is a quarter of an hour.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
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
        accepted: `service`, `rule` and `reason` of each finding that is lived with.
        lines: path in the inputs -> line.
        root: the runtime root, which keeps what was proved.
    Raises:
        UnsafePolicyError: one line per finding, `file:line: key: rule: what is wrong`; nothing was touched.
        ConfigError: what is accepted was not found; it would go unseen on the day it is there.
    """
    from hyops.control.proof.check import check
    from hyops.errors import ConfigError, UnsafePolicyError
    from hyops.model.vocabulary import Level

    reasons = {(one["service"], one["rule"]): one["reason"] for one in accepted}
    asked_about = {one["service"] for one in accepted}
    found: dict[tuple[str, str], str] = {}
    proved: set[str] = set()
    acting = [(policy, where) for policy, where in policies if policy.level is not Level.MONITOR]
    version = _version() if acting else ""
    for policy, where in acting:
        name = _name(policy, version)
        if policy.service in asked_about or not (root / KEPT / name).is_file():
            findings = check(policy).findings
            found |= {(policy.service, one.rule): _said(one, where, lines, source) for one in findings}
            tell(f"{policy.service}: {f'{len(findings)} finding(s)' if findings else 'proved safe'}")
            if findings:
                continue
        proved.add(name)
    with contextlib.suppress(OSError):  # the next apply proves them again
        _keep(root / KEPT, proved)
    if refused := [said for key, said in found.items() if key not in reasons]:
        raise UnsafePolicyError("\n".join(refused))
    for number, one in enumerate(accepted):
        key = (one["service"], one["rule"])
        if key not in found:
            line = lines.get(("accepted_findings", number), 1)
            said = f"{source}:{line}: accepted_findings.{number}: {one['service']} has no finding {one['rule']}"
            raise ConfigError(said, hint="take it out of accepted_findings; nothing was touched")
        tell(f"accepted: {found[key]}; because: {reasons[key]}")


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
