"""Etcd's own users: one for each stage, which can write below its own prefix alone (LOOP-3).

Every user has one role of the same name. Set up again, only what differs is changed, so that no running stage loses its
token for nothing. A password is in its file before etcd hears of it: killed anywhere, the same command goes on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyops.adapters.etcd_gateway import EtcdGateway, EtcdLogin, EtcdRefusedError, b64
from hyops.adapters.etcd_records_keys import after, closed_key, serving_prefix, stage_prefix, starts_prefix
from hyops.errors import ConfigError, PrerequisiteError
from hyops.ports.lease import QuorumLostError

READS: dict[str, tuple[str, ...]] = {
    "decision": ("approval", "execution"),
    "dispatch": ("decision",),
    "approval": ("decision", "dispatch", "execution"),
    "execution": ("decision", "dispatch", "approval"),
}
"""Stage -> whose records it reads beside its own. Nobody writes another one's."""

Permission = tuple[str, str, str]
"""`READ` or `READWRITE`, first key, first key after."""
LEASES = "/hyops/services/"
OFF = "authentication is not enabled"
THERE = "already exists"
Opened = Callable[[], EtcdGateway]


@dataclass
class Done:
    """What was done: a line for everything that was changed, and where each password is."""

    changed: list[str] = field(default_factory=list)
    passwords: dict[str, Path] = field(default_factory=dict)


def plan_of(env: str) -> dict[str, list[Permission]]:
    """User -> what it may; the control user moves records, the fence user keeps leases."""
    roles: dict[str, list[Permission]] = {}
    for stage, others in READS.items():
        own = [stage_prefix(env, stage), f"{serving_prefix(env)}{stage}/"]
        own += [starts_prefix(env)] if stage == "execution" else []
        may = [("READWRITE", prefix, after(prefix)) for prefix in own]
        may += [("READ", stage_prefix(env, other), after(stage_prefix(env, other))) for other in others]
        if stage == "approval":  # what was sent cannot be withdrawn any more
            may.append(("READ", starts_prefix(env), after(starts_prefix(env))))
        roles[user_of(env, stage)] = [*may, ("READ", closed_key(env), closed_key(env) + "\0")]
    roles[user_of(env, "control")] = [("READWRITE", f"/hyops/{env}/", after(f"/hyops/{env}/"))]
    roles[user_of(env, "fence")] = [("READWRITE", LEASES, after(LEASES))]
    return roles


def user_of(env: str, stage: str) -> str:
    """The name of a stage's user and role."""
    return f"hyops-{env}-{stage}"


async def set_up(without_login: Opened, as_root: Opened, root: EtcdLogin, env: str, passwords: Path) -> Done:
    """Users, roles and passwords as planned, and authentication on.

    Raises:
        PrerequisiteError: etcd does not answer or refuses; what was done stays, and the command is given again.
    """
    done = Done()
    try:
        async with _opened(without_login) as open_etcd:
            on = await _enabled(open_etcd, root)
            if not on:
                await _root(open_etcd, root, done)
        async with _opened(as_root if on else without_login) as etcd:
            for user, permissions in plan_of(env).items():
                await _role(etcd, user, permissions, done)
                done.passwords[user] = passwords / f"{user}.password"
                await _user(etcd, user, _password(done.passwords[user]), done)
            if not on:
                await etcd.call("/v3/auth/enable", {})
                done.changed.append("authentication is on")
    except QuorumLostError as exc:
        raise PrerequisiteError(
            f"etcd: {exc}", hint="mend what is named, then give the same command again: it goes on where it was"
        ) from exc
    return done


async def _enabled(etcd: EtcdGateway, root: EtcdLogin) -> bool:
    try:
        await etcd.call("/v3/auth/authenticate", {"name": root.user, "password": root.password})
    except EtcdRefusedError as exc:
        if OFF in str(exc):
            return False
        if "authentication failed" in str(exc):
            raise ConfigError(
                "store.etcd.password_file: etcd does not take this password for root",
                hint="nothing was changed; it has to be the one with which authentication was turned on",
            ) from exc
        raise
    return True


async def _root(etcd: EtcdGateway, root: EtcdLogin, done: Done) -> None:
    """Whoever turns authentication on has to be able to get in afterwards."""
    for path, body in (
        ("/v3/auth/user/add", {"name": "root", "password": root.password}),
        ("/v3/auth/user/changepw", {"name": "root", "password": root.password}),
        ("/v3/auth/role/add", {"name": "root"}),
        ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
    ):
        with _as_is(THERE):
            await etcd.call(path, body)
    done.changed.append("user root")


async def _role(etcd: EtcdGateway, role: str, wanted: list[Permission], done: Done) -> None:
    with _as_is(THERE):
        await etcd.call("/v3/auth/role/add", {"name": role})
        done.changed.append(f"role {role}")
    there = {_permission(one) for one in (await etcd.call("/v3/auth/role/get", {"role": role})).get("perm", [])}
    for kind, low, high in sorted(there - set(wanted)):
        await etcd.call("/v3/auth/role/revoke", {"role": role, "key": b64(low), "range_end": b64(high)})
        done.changed.append(f"role {role}: no {kind} of {low} any more")
    for kind, low, high in sorted(set(wanted) - there):
        permission = {"permType": kind, "key": b64(low), "range_end": b64(high)}
        await etcd.call("/v3/auth/role/grant", {"name": role, "perm": permission})
        done.changed.append(f"role {role}: {kind} of {low}")


async def _user(etcd: EtcdGateway, user: str, password: str, done: Done) -> None:
    with _as_is(THERE):
        await etcd.call("/v3/auth/user/add", {"name": user, "password": password})
        done.changed.append(f"user {user}")
    try:
        await etcd.call("/v3/auth/authenticate", {"name": user, "password": password})
    except EtcdRefusedError as exc:
        if OFF not in str(exc) and "authentication failed" not in str(exc):
            raise
        await etcd.call("/v3/auth/user/changepw", {"name": user, "password": password})
    roles = (await etcd.call("/v3/auth/user/get", {"name": user})).get("roles", [])
    for role in sorted({*roles} - {user}):
        await etcd.call("/v3/auth/user/revoke", {"name": user, "role": role})
        done.changed.append(f"user {user}: role {role} taken away")
    if user not in roles:
        await etcd.call("/v3/auth/user/grant", {"user": user, "role": user})


def _permission(one: dict[str, Any]) -> Permission:
    def text(key: str) -> str:
        return base64.b64decode(one.get(key, "")).decode(errors="backslashreplace")

    return str(one.get("permType", "READ")), text("key"), text("range_end")


def _password(file: Path) -> str:
    """What the file says; a new one where there is no file."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if said := file.read_text().strip():
                return said
        fresh = file.with_name(f".{file.name}~{secrets.token_hex(4)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w") as out:
                out.write(secrets.token_urlsafe(32) + "\n")
                out.flush()
                os.fsync(out.fileno())
            os.replace(fresh, file)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        why = getattr(exc, "strerror", None) or "not text"
        raise PrerequisiteError(f"{file}: {why}", hint="name a folder of your own with --passwords") from exc


@contextlib.contextmanager
def _as_is(words: str) -> Iterator[None]:
    """It is there already: fine."""
    try:
        yield
    except EtcdRefusedError as exc:
        if words not in str(exc) and "already" not in str(exc):
            raise


@asynccontextmanager
async def _opened(make: Opened) -> AsyncIterator[EtcdGateway]:
    gateway = make()
    try:
        yield gateway
    finally:
        await gateway.close()
        await asyncio.sleep(0)
