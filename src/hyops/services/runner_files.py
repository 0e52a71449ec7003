"""What stands on a runner besides its own configuration: the user, the units that keep jobs, what it may do as root.

One place for whoever makes a runner: `hyops runner bootstrap`, and the lab.
"""

from __future__ import annotations

from hyops.cores import CORE_MAX_BYTES
from hyops.model.pki import SERVE_COMMAND

USER, HOME, SHELL = "hyops", "/var/lib/hyops", "/bin/sh"
ETC, CONFIG = "/etc/hyops", "/etc/hyops/runner.json"
RUN, SECRETS = "/run/hyops", "/run/hyops/secrets"
LAUNCHER = "/usr/bin/hyops"
SERVE = SERVE_COMMAND
JOB_UNIT, RESUME_UNIT = "hyops-run@.service", "hyops-runner-resume.service"
RUN_NAME = f"run-{'[0-9]' * 8}T{'[0-9]' * 6}Z-{'[0-9a-f]' * 8}"
"""`model.ids.run` as sudo matches words: character by character, for its `*` takes spaces, and with them more words."""
STARTED = f"start --no-block hyops-run@{RUN_NAME}.service"
SUDOERS = f"{USER} ALL=(root) NOPASSWD: /usr/bin/systemctl {STARTED}\n"

RESUME = f"""\
[Unit]
Description=hyops: go on with the runs that a reboot interrupted
After=network.target sshd.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
User={USER}
ExecStart={SERVE} --resume-all
LimitCORE={CORE_MAX_BYTES}

[Install]
WantedBy=multi-user.target
"""


def job(root: str) -> str:
    """The template unit of one run; `root` is the runner's root folder."""
    return f"""\
[Unit]
Description=hyops run %i
After=network.target

[Service]
Type=exec
User={USER}
ExecStart={LAUNCHER} runner-job --config {CONFIG} %i
Restart=on-abnormal
RestartSec=100ms
KillMode=mixed
TimeoutStopSec=60
LimitCORE={CORE_MAX_BYTES}
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={root} {RUN}
PrivateTmp=yes
"""


def tmpfiles(root: str) -> str:
    """What must be there at each boot; secrets lie in memory only."""
    roots = "".join(f"d {folder} 0755 root root\n" for folder in (RUN, HOME))
    return roots + "".join(f"d {folder} 0700 {USER} {USER}\n" for folder in (SECRETS, root))


def system(root: str) -> dict[str, tuple[str, int]]:
    """Path -> text and mode; root's, all of them."""
    return {
        f"/etc/systemd/system/{JOB_UNIT}": (job(root), 0o644),
        f"/etc/systemd/system/{RESUME_UNIT}": (RESUME, 0o644),
        "/etc/sudoers.d/hyops-runner": (SUDOERS, 0o440),
        "/etc/tmpfiles.d/hyops.conf": (tmpfiles(root), 0o644),
    }


def entrance(public: str) -> str:
    """The line that lets a dispatcher's key start the runner's side of a dispatch, and do nothing else."""
    return f'restrict,command="{SERVE}" {public.strip()}'
