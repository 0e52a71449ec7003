"""Real hosts on one machine: built, wired, broken on purpose and measured."""

from hyops_lab.errors import CommandError, LabError, RequirementsError, WaitError
from hyops_lab.lab import Lab

__all__ = ["CommandError", "Lab", "LabError", "RequirementsError", "WaitError"]
