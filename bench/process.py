"""What the kernel knows of a process of ours, and what lies in a folder."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_s(pid: int) -> float:
    """CPU used so far, its own and that of the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory, shared pages included."""
    (line,) = (text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in text)
    return int(line.split()[1]) / 1024


def written_bytes(pid: int) -> int:
    """What it caused to be written to storage so far."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["write_bytes"])


def stored_bytes(folder: Path) -> int:
    """Of all files below; 0 where there is no such folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
