"""Whose yes carries a request: one rule for the approval stage and for the runner (APR-1, APR-4).

What the stage lets through and the runner then refuses is lost time at 03:00; what the stage refuses and a runner takes
is no approval at all. So both ask here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hyops.errors import NotApprovedError


@dataclass(frozen=True)
class Absent:
    """Whom a yes acts for: whose signature stands under the delegation."""

    principal: str
    key_fingerprint: str


@dataclass(frozen=True)
class Yes:
    """One valid approval, with whom its signature belongs to, and for whom it speaks if not for them."""

    approval_id: str
    principal: str
    key_fingerprint: str
    break_glass: bool = False
    acts_for: Absent | None = None


@dataclass(frozen=True)
class _Voice:
    """One person's yes: all their approvals, the lowest id first, and every name and key that they are known by."""

    said: Sequence[Yes]
    names: frozenset[str]
    keys: frozenset[str]


def carriers(
    said: Iterable[Yes], *, required: int, requester: str | None, key: str | None = None, unknown: bool = False
) -> list[Yes]:
    """The approvals that carry a request, at most one for each person, in the order of their ids.

    Names with one key and keys with one name are one person. Who acts for somebody is one voice with them: neither of
    the two counts again, whoever else they act for or are spoken for by. A break-glass stands in for the number, not
    for the second pair of eyes: who asked for it, in person or through a delegate, is never the only one who says yes.

    Args:
        key: the fingerprint of the key that proved who asked; whoever signs with it is who asked, under any name.
        unknown: nobody proved it, so anybody may have asked; of two people one is surely somebody else.
    Raises:
        NotApprovedError: too few people, or nobody beside the requester.
    """
    voices = _voices(list(said))
    people = [voice.said for voice in voices]
    others = [voice.said for voice in voices if requester not in voice.names and key not in voice.keys]
    glass = [yes for person in (*others, *people) for yes in person if yes.break_glass]
    if not glass and len(people) < required:
        raise NotApprovedError(f"{len(people)} of {required} approvals are there")
    if not others:
        raise NotApprovedError(f"{requester} asked for it and cannot be the only approver")
    if unknown and len(people) < 2:
        raise NotApprovedError(f"nobody proved that {requester} asked for it, so two people must approve")
    chosen = [person[0] for person in people]
    if glass:
        alone = not unknown and any(glass[0] in person for person in others)
        beside = [] if alone else [person[0] for person in (*others, *people) if glass[0] not in person]
        chosen = [glass[0], *beside[:1]]
    return sorted(chosen, key=lambda yes: yes.approval_id)


def marked(names: Iterable[str], *, required: int, requester: str | None) -> list[str]:
    """The people whose unsigned markers carry a request (APR-2): as many as signatures would be needed.

    Raises:
        NotApprovedError: too few people beside the requester.
    """
    people = sorted({*names} - {requester})
    if len(people) < max(required, 1):
        raise NotApprovedError(f"{len(people)} of {max(required, 1)} people stand in markers")
    return people


def unacknowledged(warnings: Iterable[str], acknowledged: Iterable[str]) -> str | None:
    """Which warnings of a request a yes to it leaves out, in words; None when it names them all (DSP-3)."""
    missing = sorted({*warnings} - {*acknowledged})
    return f"it does not acknowledge: {'; '.join(missing)}" if missing else None


def _voices(said: Sequence[Yes]) -> list[_Voice]:
    """Who says yes, each person at most once; people who speak for themselves come before those who are spoken for."""
    people = _people(said)
    used: set[int] = set()
    voices: list[_Voice] = []
    for own in (True, False):
        for yes in sorted(said, key=lambda yes: yes.approval_id):
            mine = {_person(people, yes.principal)} | (
                {_person(people, yes.acts_for.principal)} if yes.acts_for else set()
            )
            if (len(mine) == 1) is not own or mine & used:
                continue
            used |= mine
            same = [
                other for other in said if own and _person(people, other.principal) in mine and _alone(people, other)
            ]
            known = {pair for number in mine for pair in people[number]}
            names, keys = (frozenset(word for kind, word in known if kind == of) for of in ("name", "key"))
            voices.append(_Voice(sorted(same, key=lambda yes: yes.approval_id) or [yes], names, keys))
    return sorted(voices, key=lambda voice: voice.said[0].approval_id)


def _alone(people: Sequence[set[tuple[str, str]]], yes: Yes) -> bool:
    """Whether it speaks for nobody but who signed it."""
    return yes.acts_for is None or _person(people, yes.acts_for.principal) == _person(people, yes.principal)


def _person(people: Sequence[set[tuple[str, str]]], name: str) -> int:
    return next(number for number, known in enumerate(people) if ("name", name) in known)


def _people(said: Sequence[Yes]) -> list[set[tuple[str, str]]]:
    """Everybody who signed something, as the names and keys that belong together."""
    people: list[set[tuple[str, str]]] = []
    for who in [one for yes in said for one in (yes, yes.acts_for) if one is not None]:
        merged = {("name", who.principal), ("key", who.key_fingerprint)}
        for known in [known for known in people if known & merged]:
            merged |= known
            people.remove(known)
        people.append(merged)
    return people
