"""The scripted peer behind `ssh_peer` and `pull_peer`: a process a session, so it loads as little as a runner's server.

`python ssh_peer_serve.py LOWEST HIGHEST FOLDER` speaks the runner's protocols of these numbers. What it does instead
of answering, the file `mode` in the folder says, word by word, at each new session. `speaks LOWEST HIGHEST` has it
greet with other numbers; with `odd` its answers have another shape, with `forgets` it knows no verb but the greeting.
Every verb that is asked for goes into the file `asked`; the name that it greets with comes from the file `ref`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

NOISE = 4 * 1024 * 1024
EVENTS = 20_000


def answer(folder: Path, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """What a runner would say, without a runner."""
    verb = header["verb"]
    if verb == "hello":
        mode = (folder / "mode").read_text().split()
        low, high = mode[1:3] if mode[:1] == ["speaks"] else sys.argv[1:3]
        ref = (folder / "ref").read_text() if (folder / "ref").exists() else "cloud-runner"
        words = {"runner_ref": ref, "site": "cloud", "hyops_version": "0", "open_runs": []}
        return {**words, "protocol_min": int(low), "protocol_max": int(high), "disk_free_bytes": 1}, b""
    if verb == "offer":
        return {"missing": [digest for digest, _ in json.loads(payload)["files"].values()]}, b""
    if verb == "ship":
        return shipped()
    if verb == "start":
        (folder / "handed").write_bytes(payload[header["spec_bytes"] :])
        return {"started": "started"}, b""
    if verb == "status":
        return {"status": {"run_id": header["run_id"], "state": "running", "epoch": 1}}, b""
    if verb in ("cancel", "jobs"):
        status = {"run_id": header.get("run_id", "run-x"), "state": "running", "epoch": 1}
        return {"status": status, "jobs": [status]}, b""
    if verb == "collect":
        parts = [(folder / name).read_bytes() for name in ("result", "journal", "big")]
        return {"result_bytes": len(parts[0]), "journal_bytes": len(parts[1])}, b"".join(parts)
    return {"ok": False, "error": {"error": "UsageError", "message": f"no verb {verb}", "exit_code": 2}}, b""


def shipped() -> tuple[dict[str, Any], bytes]:
    """Read a stream away, and say whether every file in it has the bytes that its name says."""
    import hashlib
    import io
    import tarfile

    archive = io.BytesIO()
    while length := int.from_bytes(sys.stdin.buffer.read(4)):
        archive.write(sys.stdin.buffer.read(length))
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        fits = [m.name == hashlib.sha256(tar.extractfile(m).read()).hexdigest() for m in tar]  # type: ignore[union-attr]
    torn = {"ok": False, "error": {"error": "RecordError", "message": "torn"}}
    return ({"files": len(fits)} if fits and all(fits) else torn), b""


def serve(folder: Path) -> int:
    """Answer frames on standard input until it ends."""
    mode, source, sink = (folder / "mode").read_text().split(), sys.stdin.buffer, sys.stdout.buffer

    def send(header: dict[str, Any], payload: bytes = b"") -> None:
        head = {"ok": True, **header} | ({"bytes": len(payload)} if payload else {})
        sink.write(json.dumps(head).encode() + b"\n" + payload)
        sink.flush()

    with (folder / "pids").open("a") as pids:
        pids.write(f"{os.getpid()}\n")
    while line := source.readline():
        header = json.loads(line)
        payload = source.read(header.get("bytes", 0))
        with (folder / "asked").open("a") as asked:
            asked.write(f"{header['verb']} {header.get('protocol')}\n")
        if mode[:1] == ["speaks"] and header["verb"] != "hello":
            if "odd" in mode:
                send({"strange": 1})
                continue
            if "forgets" in mode:
                send({"ok": False, "error": {"error": "UsageError", "message": "no such verb", "exit_code": 2}})
                continue
        on = not mode or header["verb"] in mode[1:]
        if "noise" in mode[:1]:
            sys.stderr.buffer.write(b"Host key verification failed.\n" * (NOISE // 30))
            sys.stderr.buffer.flush()
        if on and mode[:1] == ["exit"]:
            return int(mode[-1])
        if on and mode[:1] == ["hang"]:
            (folder / "hanging").touch()
            source.read()
            return 0
        if on and mode[:1] == ["stop"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        if on and mode[:1] == ["line"]:
            sink.write(b"x" * (2 * 1024 * 1024) + b"\n")
            sink.flush()
        if header["verb"] == "attach":
            for number in range(EVENTS):
                send({"event": {"stream": "log", "offset": number, "body": {"line": "y" * 1000}}})
            send({"event": {"stream": "end", "offset": EVENTS, "body": {}}})
            continue
        send(*answer(folder, header, payload))
    return 0


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[3])))
