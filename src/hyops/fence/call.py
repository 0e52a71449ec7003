"""`hyops agent-call`: relay one request line to the fence agent's socket and its reply back. Standard library only.

It is the forced command of the runner's key on a database host: whatever the caller asks for, this is all it gets.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence

SOCKET = "/run/hyops/fence-agent.sock"
LINE_BYTES_MAX = 262_144
LIMIT_S = 120.0


def main(words: Sequence[str] = ()) -> int:
    """Exit code 0 with a result, else the error's own exit code; 20 when the agent is gone or goes."""
    path = words[words.index("--socket") + 1] if "--socket" in words[:-1] else SOCKET
    request = sys.stdin.buffer.readline(LINE_BYTES_MAX + 1)
    if len(request) > LINE_BYTES_MAX or not request.endswith(b"\n"):
        return _say(_fault("UsageError", "the request is not one line of JSON", 2, "none"))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(LIMIT_S)
            link.connect(path)
            link.sendall(request)
            with link.makefile("rb") as stream:
                reply = stream.readline(LINE_BYTES_MAX + 1)
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        return _say(_fault("AgentLostError", f"no fence agent at {path}: {exc.strerror}", 20, "none"))
    except PermissionError as exc:
        return _say(_fault("TargetError", f"no fence agent at {path}: {exc.strerror}", 20, "none"))
    except (ConnectionResetError, BrokenPipeError):
        return _say(_fault("AgentLostError", "the fence agent hung up without an answer", 20, "unknown"))
    except OSError as exc:
        return _say(_fault("DeadlineError", f"the fence agent did not answer: {exc}", 23, "unknown"))
    if not reply.endswith(b"\n"):
        return _say(_fault("AgentLostError", "the fence agent hung up without an answer", 20, "unknown"))
    return _say(reply)


def _fault(error: str, message: str, exit_code: int, effect: str) -> bytes:
    body = {"error": error, "message": message, "exit_code": exit_code, "effect": effect, "hint": "", "facts": {}}
    return json.dumps({"ok": False, "error": body}).encode() + b"\n"


def _say(reply: bytes) -> int:
    sys.stdout.buffer.write(reply)
    sys.stdout.buffer.flush()
    try:
        value = json.loads(reply)
        return 0 if value["ok"] is True else int(value["error"]["exit_code"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return 20


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
