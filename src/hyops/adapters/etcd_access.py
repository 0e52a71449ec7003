"""A gateway from the files that a configuration names: what is wrong with one is said with its key and its name."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from hyops.adapters.etcd_gateway import EtcdGateway, EtcdLogin
from hyops.errors import ConfigError
from hyops.model.etcd import EtcdAccess

PASSWORD_BYTES_MAX = 1024


def gateway_of(endpoints: Sequence[str], access: EtcdAccess, **times: float) -> EtcdGateway:
    """The gateway to these endpoints, with what `access` names.

    Raises:
        ConfigError: a file is missing, unreadable, or not what its key says.
    """
    if access.user is not None and (plain := [url for url in endpoints if not url.startswith("https://")]):
        raise ConfigError(
            f"user: a password does not go over plain HTTP to {plain[0]}", hint="use https:// and ca_file"
        )
    return EtcdGateway(endpoints, tls=tls_of(access), login=login_of(access), **times)


def tls_of(access: EtcdAccess) -> ssl.SSLContext | None:
    """Trust in that CA alone, and the client's own certificate; None: no CA is named, the system's trust decides."""
    if access.ca_file is None and access.cert_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise _wrong("ca_file", access.ca_file, exc, "the certificate of the CA that signed etcd's, as PEM") from exc
    if access.cert_file is not None:
        try:
            context.load_cert_chain(access.cert_file, access.key_file)
        except (OSError, ssl.SSLError) as exc:
            files = f"{access.cert_file}, key_file: {access.key_file}"
            raise _wrong("cert_file", files, exc, "a certificate without a common name, and its key, as PEM") from exc
    return context


def login_of(access: EtcdAccess) -> EtcdLogin | None:
    """The user of etcd's own, with the one line of the password file."""
    if access.user is None or access.password_file is None:
        return None
    try:
        with Path(access.password_file).open("rb") as file:
            password = file.read(PASSWORD_BYTES_MAX + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise _wrong("password_file", access.password_file, exc, f"one line: the password of {access.user}") from exc
    if not password or len(password) > PASSWORD_BYTES_MAX or "\n" in password:
        raise ConfigError(
            f"password_file: {access.password_file}: not one line of text",
            hint=f"one line: the password of {access.user}",
        )
    return EtcdLogin(access.user, password)


def _wrong(key: str, file: str | None, exc: Exception, wanted: str) -> ConfigError:
    why = getattr(exc, "strerror", None) or getattr(exc, "reason", None) or str(exc)
    return ConfigError(f"{key}: {file}: {why}", hint=f"it has to be {wanted}, readable for the stage's user")
