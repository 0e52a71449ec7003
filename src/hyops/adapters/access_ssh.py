"""Whether an SSH server is ready: a login with the pinned key whose command answers, within a stated wait (ACC-3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets

from hyops.adapters.access_dial import HANDSHAKE_LIMIT_S, Dialled, dial
from hyops.adapters.ssh_library import asyncssh
from hyops.errors import PrerequisiteError, TargetError
from hyops.ports.access import SshPlace, SshSeen

PAUSE_S = (0.02, 0.5)  # a host that comes up tells nobody: there is no event to wait for
ANSWER_MAX = 4096
ASKED = b'{"verb":"status"}\n'  # what a forced command of ours answers; a shell ignores it


async def ready(place: SshPlace, *, via: SshPlace | None, wait_s: float, command: bool) -> SshSeen:
    """See `AccessProbes.ssh`. A wrong host key is told at once."""
    loop = asyncio.get_running_loop()
    end_s, pause_s, tries = loop.time() + wait_s, PAUSE_S[0], 0
    last, mute = "nothing was tried", ""
    while (left_s := end_s - loop.time()) > 0:
        tries += 1
        try:
            async with asyncio.timeout(left_s):
                fingerprint, ran = await _look(place, via, min(left_s, HANDSHAKE_LIMIT_S))
            if ran or not command:
                return SshSeen(fingerprint, ran, tries)
            last, mute = "it takes the login and answers no command", fingerprint
        except TimeoutError:
            last = last if tries > 1 else "no answer"
        except (TargetError, PrerequisiteError) as exc:
            last = exc.message
        await asyncio.sleep(min(pause_s, max(0.0, end_s - loop.time())))
        pause_s = min(pause_s * 2, PAUSE_S[1])
    if mute:
        return SshSeen(mute, False, tries)
    raise PrerequisiteError(
        f"{place.name} was not ready within {wait_s:g} s and {tries} tries: {last}",
        hint="see that it is up, reachable and has the runner's key",
    )


async def _look(place: SshPlace, via: SshPlace | None, limit_s: float) -> tuple[str, bool]:
    dialled = await dial(place, via, limit_s=limit_s)
    try:
        key = dialled.connection.get_server_host_key()
        return (key.get_fingerprint() if key is not None else "unknown"), await _answers(dialled)
    finally:
        await dialled.close()


async def _answers(dialled: Dialled) -> bool:
    """Whether a command runs there: ours by its nonce, or a forced one that answers in our protocol.

    False only where the server refused it, or ran something else to its end: a link that is lost shows nothing.

    Raises:
        TargetError: the connection was lost before that was known.
    """
    nonce, answer = secrets.token_hex(16).encode(), b""
    try:
        process = await dialled.connection.create_process(
            b"echo " + nonce, encoding=None, stderr=asyncssh.DEVNULL, window=ANSWER_MAX
        )
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and what it said is still to be read
            process.stdin.write(ASKED)
            process.stdin.write_eof()
        while len(answer) < ANSWER_MAX and (more := await process.stdout.read(ANSWER_MAX - len(answer))):
            answer += more
            if nonce in answer or _in_protocol(answer):
                return True
        if len(answer) < ANSWER_MAX:
            await process.wait_closed()
    except asyncssh.ChannelOpenError:
        return False
    except (asyncssh.Error, OSError) as exc:
        raise TargetError(f"the connection was lost while a command was tried: {type(exc).__name__}") from exc
    if len(answer) < ANSWER_MAX and process.returncode is None:
        raise TargetError("the connection was lost while a command was tried")
    return False


def _in_protocol(answer: bytes) -> bool:
    try:
        value = json.loads(answer.partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("ok"), bool)
