"""What a sync changes in the cache: pure, from the cache, the map's rows and the authority's answers (SEC-1).

All or nothing: one row without a certain answer, and nothing changes. A key leaves the cache only when its own
authority says that the very secret it came from is gone, and never many at once without a person's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from hyops.errors import Effect, SecretsError, UnsafePlanError
from hyops.ports.authority import Answer, Fetched, Refused, Trouble
from hyops.secretsync.document import Cache, Entry, Origin, check_value
from hyops.secretsync.mapping import Row

HINTS = {
    Trouble.MISSING: "create the secret, or take its row out of the map",
    Trouble.MISPLACED: "mend the mount, project or vault in the map or the configuration",
    Trouble.DENIED: "give the login the right to read what the map names, or renew it",
    Trouble.SEALED: "unseal the authority; the cache still has what was synced before",
    Trouble.THROTTLED: "wait and sync again, or raise the authority's limits",
    Trouble.UNREACHABLE: "check address, network and certificate; the cache still has what was synced before",
    Trouble.MALFORMED: "look at the secret in the authority itself: it must be a text",
}


@dataclass(frozen=True)
class Synced:
    """The next cache, and what is new in it. Names only, so that it can be shown and logged."""

    cache: Cache = field(repr=False)
    added: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    still_gone: tuple[str, ...] = ()


def plan_sync(
    cache: Cache,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    *,
    authority: str,
    place: str,
    at: datetime,
    accept_removals: bool = False,
) -> Synced:
    """The cache after a sync that asked at `at`.

    Raises:
        SecretsError: a row has no certain answer; names every such key, and the trouble.
        UnsafePlanError: more than half of this authority's keys (and more than one) would go.
    """
    changes: dict[str, Entry | None] = {}
    told: dict[str, list[str]] = {name: [] for name in ("added", "replaced", "same", "removed", "still_gone")}
    troubles: list[tuple[Row, Refused]] = []
    for row in rows:
        old = cache.entries.get(row.key)
        answer = answers.get(row.ref, Refused(Trouble.MALFORMED, "the answer leaves it out"))
        if isinstance(answer, Fetched) and (why := check_value(row.key, answer.value.reveal())) is not None:
            answer = Refused(Trouble.MALFORMED, why)
        if isinstance(answer, Fetched):
            origin = Origin(authority, place, row.ref, row.scope, answer.version)
            changes[row.key] = Entry(answer.value, origin, at)
            told[_word(old, answer)].append(row.key)
        elif answer.trouble is Trouble.MISSING and old is not None and came_from(old, authority, place, row):
            told["still_gone" if old.value is None else "removed"].append(row.key)
            if old.value is not None:
                changes[row.key] = Entry(None, old.origin, at)
        else:
            troubles.append((row, answer))
    if troubles:
        raise _refused(authority, troubles)
    owned = sum(1 for e in cache.entries.values() if e.value is not None and e.origin.authority == authority)
    if not accept_removals and too_many(len(told["removed"]), owned):
        raise UnsafePlanError(
            f"{authority}: {len(told['removed'])} of {owned} keys would go: {', '.join(told['removed'])}",
            hint="if they were really deleted upstream, sync again with --accept-removals",
        )
    return Synced(cache.changed(changes), **{name: tuple(keys) for name, keys in told.items()})


def too_many(removed: int, owned: int) -> bool:
    """An authority that lost most of its secrets at once was more likely restored or mistaken than cleaned up."""
    return removed > max(1, owned // 2)


def overtaken(before: Cache, now: Cache, rows: Sequence[Row]) -> bool:
    """Whether somebody wrote one of the rows' keys since the authority was asked: then it must be asked again."""
    return any(before.entries.get(row.key) != now.entries.get(row.key) for row in rows)


def _word(old: Entry | None, new: Fetched) -> str:
    if old is None or old.value is None:
        return "added"
    return "same" if old.value == new.value else "replaced"


def came_from(entry: Entry, authority: str, place: str, row: Row) -> bool:
    """Another mount, project or vault that lacks the secret says nothing about the one it came from."""
    origin = entry.origin
    return (origin.authority, origin.place, origin.ref) == (authority, place, row.ref)


def _refused(authority: str, troubles: Sequence[tuple[Row, Refused]]) -> SecretsError:
    first = troubles[0][1].trouble
    shown = [f"{row.key} ({row.ref}): {refused.trouble}: {refused.why}" for row, refused in troubles[:10]]
    more = [f"and {len(troubles) - 10} more"] if len(troubles) > 10 else []
    return SecretsError(
        f"{authority}: the cache was not touched: " + "; ".join(shown + more),
        hint=HINTS[first],
        effect=Effect.NONE,
        trouble=first,
    )
