"""What was observed: samples from probes and queries, and the checks that a decision makes of them (DEC-2, DEC-3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.model import canonical
from hyops.model.base import Name, Part, Text, UtcTime
from hyops.model.vocabulary import CheckStatus


class Sample(Part):
    """One observation, as a vantage point reports it (one JSON line of `hyops probe stream`).

    `value` is None when nothing could be measured; `error` then says why. `sequence` grows by one per signal and
    process start, so that a lost or repeated line shows. `elapsed_s` is how long the look took, on the vantage point's
    own monotonic clock: a look that failed at its time limit speaks for the whole of it. `service` and `host` are told
    where one stream serves several services: whose signal it is, and which member was looked at.
    """

    vantage: Name
    signal: Name
    sequence: Annotated[int, Field(ge=0)]
    taken_at: UtcTime
    value: float | None = None
    error: Text | None = None
    detail: Text | None = None
    elapsed_s: Annotated[float, Field(ge=0, le=86400)] | None = None
    healthy_vantage: bool = True
    service: Name | None = None
    host: Name | None = None

    def encoded_line(self) -> bytes:
        """One line of the stream."""
        return canonical.encode(self.body()) + b"\n"


class Check(Part):
    """One signal judged at decision time. `age_s` is of the sample, never of the query."""

    name: Name
    status: CheckStatus
    query: Text | None = None
    value: float | None = None
    threshold: float | None = None
    comparator: Literal["gte", "lte"] | None = None
    sampled_at: UtcTime | None = None
    age_s: float | None = None
    vantage: Name | None = None
    reason: Text | None = None
