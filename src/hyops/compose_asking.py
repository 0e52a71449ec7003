"""A person's wish for a switch, signed with their own key (see `compose`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyops.compose_hold import people_of

if TYPE_CHECKING:
    from hyops.model.observed import Asked


def asker(config_file: Path, by: str | None, key: Path) -> str:
    """Who asks: whom the allowed signers file gives the key.

    Raises:
        ConfigError: the file names no people, or the key has not exactly one principal.
        UsageError: somebody else is named.
    """
    from hyops.compose_hold import principal_of
    from hyops.errors import UsageError

    principal = principal_of(config_file, key)
    if by is not None and by != principal:
        raise UsageError(
            f"--by {by}: the key {key} is {principal}'s", hint="leave --by out: who signs is who asks; or sign yourself"
        )
    return principal


def proved(config_file: Path, service: str, asked: Asked, key: Path) -> Asked:
    """The same wish with its signature, verified as anybody will.

    Raises:
        NotApprovedError: the key does not count. UsageError, ConfigError: the file is not about the service, or names
        no people. PrerequisiteError: the key does not sign.
    """
    from hyops.adapters.approval_ssh import sign
    from hyops.adapters.clock_system import SystemClock
    from hyops.errors import ConfigError, UsageError
    from hyops.model.asking import AskedProof, statement_of
    from hyops.services.config import DecisionConfig

    config = DecisionConfig.read(config_file.read_bytes(), source=str(config_file))
    people, protected = people_of(config.people), config.about(service)
    if people is None:
        raise ConfigError(f"{config_file}: people: absent", hint="name allowed_signers and approvers there")
    if protected is None:
        about = ", ".join(one.policy.service for one in config.protected[:20])
        raise UsageError(f"{config_file} is about {about}, not {service}")
    now = SystemClock().now()
    data = statement_of(asked, service=service, env=protected.policy.env, signed_at=now).signed_bytes()
    signature = sign(data, key)
    who = people.verify(asked.requested_by, data, signature, now)
    proof = AskedProof(signed_at=now, key_fingerprint=who.key_fingerprint, ssh_signature=signature)
    return asked.model_copy(update={"proof": proof})
