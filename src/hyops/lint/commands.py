"""Shell texts as a CI job would run them: which of their commands reach another host (RUN-12).

A command is the first word of its part, or the first word behind what merely starts it (`sudo -u x`, `docker run
image`, `find . -exec`). Words that are arguments are never looked at, so a text may speak of `ssh`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from hyops.lint.look import lines_of
from hyops.ports.documents import Node

REACHING = {
    "ansible",
    "ansible-playbook",
    "autossh",
    "helm",
    "kubectl",
    "mosh",
    "mysql",
    "mysqldump",
    "nc",
    "ncat",
    "netcat",
    "openvpn",
    "patronictl",
    "pdsh",
    "pg_basebackup",
    "pg_dump",
    "pg_dumpall",
    "pg_isready",
    "pg_restore",
    "psql",
    "pssh",
    "rsync",
    "scp",
    "sftp",
    "ssh",
    "ssh-add",
    "ssh-agent",
    "ssh-copy-id",
    "sshpass",
    "tailscale",
    "telnet",
    "wg-quick",
}
REACHING_PAIRS = {("gcloud", "ssh"), ("gcloud", "start-iap-tunnel"), ("aws", "start-session"), ("az", "ssh")}
NAMES_NO_OTHER_HOST = re.compile(r"^(?!.*((^|\s)(-h|--host[= ])|@|host=)\s*(?!localhost|127\.|/|=)\S)")
NETCAT = re.compile(r"(^|\s)-[a-zA-Z]*l|localhost|127\.")
STAYS_HERE = {
    "ansible-playbook": re.compile(r"--syntax-check|--list-|localhost,|--connection[= ]local|-c local"),
    "helm": re.compile(
        r"--dry-run=client|^(-[\w-]+(=\S*)?\s+)*(completion|create|dep|dependency|env|help|lint|package|plugin|pull|push"
        r"|registry|repo|search|show|template|verify|version|--help|--version)(\s|$)"
    ),
    "kubectl": re.compile(r"--dry-run=client|^(version --client|kustomize)"),
    "rsync": re.compile(r"^(?!.*((^|\s)[^\s/]+:\S|-e\s|--rsh))"),
    "telnet": NETCAT,
    **dict.fromkeys(("nc", "ncat", "netcat"), NETCAT),
    **dict.fromkeys(("mysql", "mysqldump", "psql"), NAMES_NO_OTHER_HOST),
    **dict.fromkeys(("pg_basebackup", "pg_dump", "pg_dumpall", "pg_isready", "pg_restore"), NAMES_NO_OTHER_HOST),
}
"""What these do without leaving the machine that runs the job."""
BEFORE_A_COMMAND = {
    "!",
    "command",
    "coproc",
    "do",
    "elif",
    "else",
    "eval",
    "exec",
    "if",
    "then",
    "time",
    "until",
    "while",
    "{",
}
ASSIGNS = re.compile(r"^[A-Za-z_]\w*=")
WORDS_MAX = 100


@dataclass(frozen=True)
class Starter:
    """What starts another command. `valued`: its options whose value is the next word; `verbs`: the command comes
    behind one of these; `skips`: so many words stand before it, such as a container's image.
    """

    valued: str = ""
    verbs: str = ""
    skips: int = 0


CONTAINER = Starter(
    "-a --add-host --cap-add --cpus --device --dns -e --entrypoint --env --env-file --gpus -h --hostname -l --label -m"
    " --memory --mount --name --net --network -p --platform --publish --pull --restart --security-opt --shm-size"
    " --tmpfs -u --ulimit --user -v --volume --volumes-from -w --workdir",
    "run exec",
    1,
)
PYTHON = Starter(
    "-C --directory --env-file --extra --from --group --package -p --project --python --spec --with", "run"
)
SHELL = Starter("-o -O")
STARTERS = {
    **dict.fromkeys(("docker", "docker-compose", "nerdctl", "podman"), CONTAINER),
    **dict.fromkeys(("hatch", "pdm", "pipenv", "pipx", "poetry", "rye", "uv"), PYTHON),
    **dict.fromkeys(("bash", "dash", "sh", "zsh"), SHELL),
    **dict.fromkeys(("nohup", "setsid"), Starter()),
    "doas": Starter("-C -u"),
    "env": Starter("-C --chdir -u --unset"),
    "find": Starter(verbs="-exec -execdir -ok -okdir"),
    "flock": Starter("-E -w", skips=1),
    "nice": Starter("-n"),
    "npx": Starter("-p --package"),
    "parallel": Starter("-a -I -j --jobs -N -n"),
    "stdbuf": Starter("-e -i -o"),
    "su": Starter(verbs="-c --command"),
    "sudo": Starter("-C -D --chdir -g --group -h -p -R -r -T -t -U -u --user"),
    "timeout": Starter("-k --kill-after -s --signal", skips=1),
    "uvx": Starter(PYTHON.valued),
    "xargs": Starter("-a -d -E -I -L -n -P -s"),
}


def commands(node: Node) -> Iterator[tuple[int, str]]:
    """Commands in a shell text that reach a target, with their lines."""
    for line, text in lines_of(node):
        for part in re.split(r"\|\|?|&&?|;|\$\(|`|\(", text):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                words = part.split()
            if tool := _reaching(words):
                yield line, tool
                break


def _reaching(words: list[str]) -> str:
    """The tool with which a command reaches another host; empty when it stays here."""
    for _ in range(WORDS_MAX):
        before = (one in BEFORE_A_COMMAND or ASSIGNS.match(one) for one in words)
        words = words[next((n for n, skipped in enumerate(before) if not skipped), len(words)) :]
        starter = STARTERS.get(_name(words[0])) if words else None
        if starter is None:
            return _tool(words)
        words = _behind(starter, [part for one in words[1 : WORDS_MAX + 1] for part in one.split()][:WORDS_MAX])
    return ""


def _behind(starter: Starter, words: list[str]) -> list[str]:
    """The command that is started."""
    if starter.verbs:
        at = next((n for n, one in enumerate(words) if one in starter.verbs.split()), len(words))
        words = words[at + 1 :]
    skips = starter.skips
    while words and (words[0].startswith("-") or skips > 0):
        if not words[0].startswith("-"):
            skips -= 1
        elif words[0] in starter.valued.split():
            words = words[1:]
        words = words[1:]
    return words


def _name(first: str) -> str:
    """A command without its folder, and without what is left of quotes and brackets around it."""
    return first.rpartition("/")[2].strip("'\")")


def _tool(words: list[str]) -> str:
    first = _name(words[0]) if words else ""
    if any(first == tool and verb in words for tool, verb in REACHING_PAIRS):
        return first
    if first not in REACHING:
        return ""
    stays = STAYS_HERE.get(first)
    return "" if stays is not None and stays.search(" ".join(words[1:WORDS_MAX])) else first
