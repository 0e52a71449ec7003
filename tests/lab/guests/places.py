"""Where the command and the job can be stopped, in the order in which a run comes by."""

from __future__ import annotations

PLACES = ["sync", "plan", "approve", "seal", "ship", "stage", "start", "follow", "collect"]
STARTED = ("start", "follow", "collect")
EFFECT = "nothing:effect"
JOB_PLACES = [
    "nothing:intent:before",
    "nothing:intent:after",
    EFFECT,
    "nothing:effect:after",
    "nothing:outcome:before",
    "nothing:outcome:after",
    "close:before",
    "close:after",
]
