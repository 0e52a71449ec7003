"""The secrets that a deployed run is handed: whose value, from where, and how it travels (RUN-8, RUN-9, SEC-3).

The vault cache goes first. The operator's own shell gives a value only for a key that was named for that, and the plan
says so, which people approve. Where the runner has a key of its own, what travels is sealed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hyops.engine.redact import Redactor
from hyops.errors import UsageError
from hyops.model.base import iso_utc
from hyops.model.runners import RunnerPlace
from hyops.model.sealed import SEALED, Sealed
from hyops.model.secret import Secret
from hyops.model.vocabulary import SecretOrigin
from hyops.ports.authority import Authority
from hyops.ports.clock import Clock
from hyops.secretsync.mapping import Row
from hyops.services.secrets import Secrets


class Seals(Protocol):
    """Seals values to a runner's public key."""

    def __call__(self, values: Mapping[str, Secret], public: str, *, env: str, runner_ref: str) -> Sealed:
        """What only that runner can open."""


@dataclass(frozen=True)
class Source:
    """An authority outside, and which of its keys are asked for (RUN-9)."""

    authority: Authority
    rows: Sequence[Row]


@dataclass
class SyncEnv:
    """The keys of one deployment. `shell` holds the operator's own values, for the keys named for that."""

    keys: Sequence[str]
    shell: Mapping[str, Secret]
    cache: Callable[[], Secrets]
    env: str
    clock: Clock
    seals: Seals
    source: Source | None = None
    _cached: Mapping[str, Secret] | None = field(default=None, repr=False)

    def origins(self) -> dict[str, SecretOrigin]:
        """Key -> whose value the run gets; it stands in the plan."""
        if twice := sorted(set(self.keys) & self.shell.keys()):
            raise UsageError(f"{', '.join(twice)}: both from the vault cache and from the shell")
        return {
            **dict.fromkeys(self.keys, SecretOrigin.VAULT),
            **dict.fromkeys(self.shell, SecretOrigin.OPERATOR),
        }

    async def refresh(self, *, dry_run: bool) -> dict[str, object] | None:
        """Bring the cache to what the authority has now; what may be recorded of it. None: nobody asked for it.

        Raises:
            SecretsError: the authority or the cache failed; nothing was changed.
        """
        if self.source is None:
            return None
        began_at, began = self.clock.now(), self.clock.monotonic()
        authority = self.source.authority
        done = await self.cache().sync(authority, self.source.rows, dry_run=dry_run)
        self._cached = done.cache.values()
        words = ("added", "replaced", "same", "removed", "still_gone")
        return {
            "phase": "secrets",
            "source": authority.name,
            "place": authority.place,
            "dry_run": dry_run,
            "started_at": iso_utc(began_at),
            "elapsed_s": round(self.clock.monotonic() - began, 6),
            **{word: list(getattr(done, word)) for word in words},
        }

    def values(self) -> Mapping[str, Secret]:
        """Those of the keys that have a value, as they were when they were first read here."""
        if self._cached is None and self.keys:
            self._cached = self.cache().cache().values()
        cached = self._cached or {}
        return {**{key: cached[key] for key in self.keys if key in cached}, **self.shell}

    def redactor(self) -> Redactor:
        """What keeps them out of everything that is written here."""
        return Redactor({key: secret.reveal() for key, secret in self.values().items()})

    def shell_redactor(self) -> Redactor:
        """The same for the operator's own values alone, before the cache is read."""
        return Redactor({key: secret.reveal() for key, secret in self.shell.items()})

    def handed(self, runner_ref: str, place: RunnerPlace) -> Mapping[str, str]:
        """What the start carries: sealed where the runner has a key, else as it is."""
        values = self.values()
        if not values:
            return {}
        if place.seal_key is None:
            return {key: secret.reveal() for key, secret in values.items()}
        sealed = self.seals(values, place.seal_key, env=self.env, runner_ref=runner_ref)
        return {SEALED: sealed.encoded().decode()}
