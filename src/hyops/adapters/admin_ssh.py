"""An administrator's login over SSH: the key is pinned as for a dispatch, and nothing is forwarded (RUN-2, RUN-3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from hyops.adapters.runner_link import (
    KEEPALIVE_S,
    HostKeyRefusedError,
    LoginRefusedError,
    RunnerTarget,
    ShedError,
)
from hyops.adapters.ssh_asyncssh import AsyncsshLink, FloodError, log_in
from hyops.adapters.ssh_login import host_mend
from hyops.errors import DeadlineError, Effect, HostKeyError, PrerequisiteError, RunnerUnreachableError, TargetError
from hyops.ports.admin import Said

COMMAND_LIMIT_S = 900.0
OUTPUT_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class SshAdminSession:
    """`AdminSession`."""

    link: AsyncsshLink
    target: RunnerTarget

    @property
    def user(self) -> str:
        """See the port."""
        return self.target.user

    async def run(self, command: str, data: bytes = b"") -> Said:
        """See the port."""
        try:
            async with asyncio.timeout(COMMAND_LIMIT_S):
                return Said(*await self.link.run(command, data, OUTPUT_BYTES_MAX))
        except TimeoutError as exc:
            raise DeadlineError(f"{self.target.host}: no answer within {COMMAND_LIMIT_S:g} s") from exc
        except FloodError as exc:
            what = f"{self.target.host}: it wrote more than {exc} bytes, and was cut off"
            hint = "see on its console what answers there: `hyops.runner.setup` says one line"
            raise TargetError(what, hint=hint, effect=Effect.UNKNOWN) from exc
        except OSError as exc:
            hint = "run the same command again: it goes on where this one stopped"
            raise RunnerUnreachableError(f"{self.target.host}: {exc}", hint=hint) from exc


@dataclass(frozen=True)
class SshAdmin:
    """`AdminLogin`. `target` names the administrator as its user, and his key."""

    runner_ref: str
    target: RunnerTarget

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[SshAdminSession]:
        """See the port."""
        target = self.target
        where = f"{self.runner_ref} ({target.host}:{target.port})"
        async with AsyncExitStack() as ends:
            yield SshAdminSession(await self._entered(ends, where), target)

    async def _entered(self, ends: AsyncExitStack, where: str) -> AsyncsshLink:
        target, over = self.target, None
        try:
            if target.bastion is not None:
                over = await log_in(target.bastion, KEEPALIVE_S, None)
                ends.push_async_callback(over.drop)
            link = await log_in(target, KEEPALIVE_S, over)
            ends.push_async_callback(link.drop)
        except HostKeyRefusedError as exc:
            raise HostKeyError(f"{where}: {exc}", hint=host_mend(str(exc), self.runner_ref)) from exc
        except LoginRefusedError as exc:
            hint = "name a login with --admin that may use sudo, and its key with --admin-key"
            raise PrerequisiteError(f"{where} refused the key of {target.user}: {exc}", hint=hint) from exc
        except (ShedError, OSError, TimeoutError) as exc:
            raise RunnerUnreachableError(f"{where}: {exc}", hint="see that it is up", effect=Effect.NONE) from exc
        except ValueError as exc:
            hint = "name an OpenSSH private key without a passphrase, or one made for this, with --admin-key"
            raise PrerequisiteError(f"{target.key_file}: {exc}", hint=hint) from exc
        return link
