"""No core file of a process that holds secrets: what stands in its memory would stand on a disk (SEC-2, INV-10).

By the limit alone, and not by PR_SET_DUMPABLE: under a `/proc` with `hidepid=2` a process that is not dumpable is
invisible to its own user, and a runner that looks there for what is left of a job (`launch.session_members`), or for
whoever writes a secret (`handed.sweep`), would call the living dead. Children inherit the limit, and would not have
inherited the flag. Standard library only.
"""

from __future__ import annotations

import resource

CORE_MAX_BYTES = 1
"""Too little for any file. Not 0, which does not keep Linux from handing the whole of it to a `core_pattern` that is a
pipe (Ubuntu's apport, systemd-coredump): at 1 the kernel starts no such program (core(5); fs/coredump.c)."""


def forbid_cores() -> None:
    """From now on neither this process nor a child of it leaves a core; only root could take that back."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = CORE_MAX_BYTES if hard == resource.RLIM_INFINITY else min(hard, CORE_MAX_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
