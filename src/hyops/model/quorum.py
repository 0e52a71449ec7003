"""Whose yes carries a request: one rule for the approval stage and for the runner (APR-1, APR-4).

What the stage lets through and the runner then refuses is lost time at 03:00; what the stage refuses and a runner takes
is no approval at all. So both ask here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hyops.errors import NotApprovedError


@dataclass(frozen=True)
class Yes:
    """One valid approval, with whom its signature belongs to."""

    approval_id: str
    principal: str
    key_fingerprint: str
    break_glass: bool = False


def carriers(said: Iterable[Yes], *, required: int, requester: str | None) -> list[Yes]:
    """The approvals that carry a request, at most one for each person, in the order of their ids.

    Names with one key and keys with one name are one person. A break-glass stands in for the number, not for the second
    pair of eyes: who asked for it is never the only one who says yes.

    Raises:
        NotApprovedError: too few people, or nobody beside the requester.
    """
    people = _people(said)
    others = [person for person in people if all(yes.principal != requester for yes in person)]
    glass = [yes for person in (*others, *people) for yes in person if yes.break_glass]
    if not glass and len(people) < required:
        raise NotApprovedError(f"{len(people)} of {required} approvals are there")
    if not others:
        raise NotApprovedError(f"{requester} asked for it and cannot be the only approver")
    chosen = [person[0] for person in people]
    if glass:
        chosen = glass[:1] if any(glass[0] in person for person in others) else [glass[0], others[0][0]]
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


def _people(said: Iterable[Yes]) -> list[Sequence[Yes]]:
    """The approvals by person; the first one of each person has the lowest id."""
    people: list[list[Yes]] = []
    for yes in said:
        same = [person for person in people if any(_one_person(yes, other) for other in person)]
        people = [person for person in people if not any(_one_person(yes, other) for other in person)]
        people.append([yes, *(other for person in same for other in person)])
    inside = (sorted(person, key=lambda yes: yes.approval_id) for person in people)
    return sorted(inside, key=lambda person: person[0].approval_id)


def _one_person(one: Yes, other: Yes) -> bool:
    return one.principal == other.principal or one.key_fingerprint == other.key_fingerprint
