"""The secrets of one job: those that its plan names, opened (RUN-8, SEC-3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hyops.errors import PrerequisiteError, SecretsError
from hyops.model.plan import Plan

Opened = Callable[[Mapping[str, str], str], Mapping[str, str]]
"""Secrets as they were handed over, for an environment -> their values; SecretsError where they do not open."""


def named_secrets(
    plan: Plan, handed: Mapping[str, str], opened: Opened, *, fresh: bool, cancelled: bool
) -> dict[str, str]:
    """Name -> value; a run that is to be cancelled needs none.

    Raises:
        PrerequisiteError: fresh ones do not open, which refuses the run. SecretsError: they are gone (the host was
            down) or too old; the run stays open as it is, until whoever has them starts it again.
    """
    named = (plan.sync_env or {}).keys()
    try:
        values = opened(handed, plan.env) if handed else {}
        if (missing := sorted(named - values.keys())) and not cancelled:
            raise SecretsError(f"secrets are not there: {', '.join(missing)}", hint="start it with them again")
    except SecretsError as exc:
        if cancelled:
            return {}
        if fresh and handed:
            raise PrerequisiteError(exc.message, hint=exc.hint) from None
        raise
    return {key: values[key] for key in named if key in values}
