"""What `hyops secrets` does with the cache and an authority; it is handed both (SEC-1, SEC-2).

Values leave only through `reveal` and `environment`; every other answer holds names, origins and ages.
"""

from __future__ import annotations

import secrets as random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from hyops.errors import ConfigError, Effect, SecretsError
from hyops.model.secret import Secret
from hyops.ports.authority import Authority
from hyops.ports.clock import Clock
from hyops.ports.secret_cache import SecretCache
from hyops.secretsync.document import Cache, Entry, Origin, check_value, parse, render
from hyops.secretsync.mapping import Row
from hyops.secretsync.plan import Synced, overtaken, plan_sync

ATTEMPTS_MAX = 3
GENERATED_BYTES = 32
Merge = Callable[[Cache], Synced]


@dataclass(frozen=True)
class Told:
    """What may be said about a key: `state` is `present` or `gone`; `age_s` None where nobody wrote it down."""

    key: str
    state: str
    origin: Origin
    at: datetime | None
    age_s: float | None


class Overtaken(Exception):
    """Another writer was quicker; ask again."""


class Secrets:
    """One environment's cache."""

    def __init__(self, cache: SecretCache, clock: Clock) -> None:
        self._cache, self._clock = cache, clock

    async def sync(
        self, authority: Authority, rows: Sequence[Row], *, accept_removals: bool = False, dry_run: bool = False
    ) -> Synced:
        """Bring the rows' keys to what the authority has now, all or none.

        Raises:
            SecretsError: an answer is missing, or others keep writing; nothing was changed.
            UnsafePlanError: too many keys would go.
        """
        refs = list(dict.fromkeys(row.ref for row in rows))
        for _ in range(ATTEMPTS_MAX):
            before, at = self.cache(), self._clock.now()
            answers = await authority.read(refs)

            def merged(now: Cache) -> Synced:
                return plan_sync(
                    now,
                    rows,
                    answers,  # noqa: B023  # used before the next turn
                    authority=authority.name,
                    place=authority.place,
                    at=at,  # noqa: B023
                    accept_removals=accept_removals,
                )

            if dry_run:
                return merged(before)
            try:
                return self._change(before, rows, merged)
            except Overtaken:
                continue
        raise SecretsError(
            f"{self._cache.source}: others keep writing the same keys", hint="sync again", effect=Effect.NONE
        )

    def _change(self, before: Cache, rows: Sequence[Row], merged: Merge) -> Synced:
        made: list[Synced] = []

        def change(text: bytes) -> bytes:
            now = parse(text, source=self._cache.source)
            if overtaken(before, now, rows):
                raise Overtaken
            made.append(merged(now))
            return render(made[-1].cache)

        self._cache.update(change)
        return made[-1]

    def put(self, key: str, value: Secret) -> bool:
        """Keep a value that a person gave; True when the key had none before.

        Raises:
            ConfigError: no environment could carry it.
        """
        if (why := check_value(key, value.reveal())) is not None:
            raise ConfigError(why, hint="nothing was changed")
        return key in self._put({key: Entry(value, Origin("set"), self._clock.now())}, keep=False)

    def ensure(self, keys: Sequence[str], *, generate: bool = False, age_max_s: float | None = None) -> list[str]:
        """Prove that every key has a value, young enough; make up random ones where allowed. The keys that were made.

        Raises:
            SecretsError: names the keys that are absent or too old; nothing was made then.
        """
        for key in keys:
            if (why := check_value(key, "")) is not None:
                raise ConfigError(why)
        told = {one.key: one for one in self.told() if one.state == "present"}
        absent = [key for key in keys if key not in told]
        old = [k for k in keys if k in told and age_max_s is not None and not _young(told[k].age_s, age_max_s)]
        if old or (absent and not generate):
            faults = [f"{key}: absent" for key in absent] + [f"{key}: {_age(told[key].age_s)}" for key in old]
            raise SecretsError(
                f"{self._cache.source}: " + "; ".join(faults),
                hint="sync from the authority, or `hyops secrets set` it",
                effect=Effect.NONE,
            )
        at, origin = self._clock.now(), Origin("generated")
        fresh = {key: Entry(Secret(random.token_urlsafe(GENERATED_BYTES)), origin, at) for key in absent}
        return sorted(self._put(fresh, keep=True)) if fresh else []

    def told(self) -> list[Told]:
        """What may be said about every key, by name."""
        return [self._told(key, entry) for key, entry in sorted(self.cache().entries.items())]

    def about(self, key: str) -> Told:
        """The same of one key; SecretsError when the cache has never had it."""
        entry = self.cache().entries.get(key)
        if entry is None:
            raise self._absent([key])
        return self._told(key, entry)

    def reveal(self, key: str) -> Secret:
        """A value."""
        return self.environment([key])[key]

    def environment(self, keys: Sequence[str]) -> Mapping[str, Secret]:
        """The values of the named keys and of no other; SecretsError names those that have none."""
        values = self.cache().values()
        if absent := [key for key in keys if key not in values]:
            raise self._absent(absent)
        return {key: values[key] for key in keys}

    def cache(self) -> Cache:
        """The cache as it is now."""
        return parse(self._cache.read(), source=self._cache.source)

    def _put(self, entries: Mapping[str, Entry], *, keep: bool) -> set[str]:
        """Write entries; the keys that had no value before. `keep`: a value that is there by now stays."""
        fresh: set[str] = set()

        def change(text: bytes) -> bytes:
            now = parse(text, source=self._cache.source)
            fresh.clear()
            fresh.update(entries.keys() - now.values().keys())
            return render(now.changed({key: entry for key, entry in entries.items() if not keep or key in fresh}))

        self._cache.update(change)
        return fresh

    def _told(self, key: str, entry: Entry) -> Told:
        age_s = None if entry.at is None else (self._clock.now() - entry.at).total_seconds()
        return Told(key, "gone" if entry.value is None else "present", entry.origin, entry.at, age_s)

    def _absent(self, keys: Sequence[str]) -> SecretsError:
        return SecretsError(
            f"{self._cache.source}: no value for {', '.join(keys)}",
            hint="sync from the authority, or `hyops secrets set` it",
            effect=Effect.NONE,
        )


def _young(age_s: float | None, age_max_s: float) -> bool:
    """An unknown age proves nothing, nor does one from the future."""
    return age_s is not None and 0 <= age_s <= age_max_s


def _age(age_s: float | None) -> str:
    return "of unknown age" if age_s is None else f"{age_s:.0f} s old"
