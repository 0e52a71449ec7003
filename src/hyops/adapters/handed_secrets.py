"""Secrets as a start handed them over, opened on the runner: sealed to its own key, or plain (SEC-3, RUN-8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hyops.adapters.clock_system import SystemClock
from hyops.errors import Effect, HyopsError, SecretsError
from hyops.model.sealed import SEALED, Sealed


class HandedSecrets:
    """One runner's side of it; `seal_key` None: it has no key of its own."""

    def __init__(self, seal_key: Path | None, runner_ref: str) -> None:
        self._seal_key, self._runner_ref = seal_key, runner_ref

    def opened(self, handed: Mapping[str, str], env: str) -> Mapping[str, str]:
        """Name -> value.

        Raises:
            SecretsError: the seal is not for this runner and environment, too old, changed, or cannot be opened here.
        """
        if SEALED not in handed:
            return handed
        if self._seal_key is None:
            raise SecretsError("sealed secrets: this runner has no key", hint="set seal_key", effect=Effect.NONE)
        from hyops.adapters.sealer_hpke import SealKey

        try:
            sealed = Sealed.read(handed[SEALED].encode(), source="sealed secrets")
            now = SystemClock().now()
            values = SealKey.load(self._seal_key).open(sealed, env=env, runner_ref=self._runner_ref, now=now)
        except SecretsError:
            raise
        except HyopsError as exc:
            raise SecretsError(exc.message, hint=exc.hint, effect=Effect.NONE) from None
        return {key: secret.reveal() for key, secret in values.items()}
