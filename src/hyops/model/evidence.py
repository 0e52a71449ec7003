"""What evidence adds to the records: objectives, the counted loss, and what was achieved (EVD-1).

Wall clocks of two hosts are never subtracted. The recovery time is therefore a span `rta_at_least_s .. rta_s`: the
hand-over between control host and runner is measured on the control host alone, and counted in full in `rta_s`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyops.model.base import Part, Text, UtcTime

Count = Annotated[int, Field(ge=0, le=2**53)]
Span = Annotated[float, Field(ge=0)]
Verdict = Literal["met", "missed", "unproven", "no-objective"]


class Objectives(Part):
    """What was promised for the service."""

    rto_s: Span | None = None
    rpo_s: Span | None = None


class Loss(Part):
    """Rows that a client was told are safe, against rows that are there. `bounded`: `lost` is an upper bound.

    `in_doubt` rows got no answer, so they are neither acknowledged nor lost. Client times are on the client's clock.
    """

    acknowledged: Count
    surviving: Count
    lost: Count
    how: Literal["exact", "bounded"]
    source: Text
    in_doubt: Count = 0
    lost_ids: list[Count] = Field(default_factory=list, max_length=10_000)
    rpa_s: Span | None = None
    client_gap_s: Span | None = None
    last_ack_at: UtcTime | None = None
    first_ack_at: UtcTime | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Loss:
        if self.how == "exact" and self.lost != self.acknowledged - self.surviving:
            raise ValueError("lost is not acknowledged minus surviving")
        return self


class Actuals(Part):
    """RTA and RPA with their parts. `control_s` is on the control host's clock, `phases_s` on the runner's."""

    objectives: Objectives = Field(default_factory=Objectives)
    first_failed_at: UtcTime | None = None
    measured_from: Literal["first-failed-signal", "attempt", "nothing"]
    rta_s: Span | None = None
    rta_at_least_s: Span | None = None
    rto: Verdict = "no-objective"
    rpa_s: Span | None = None
    rows_lost: Count | None = None
    rpo: Verdict = "no-objective"
    control_s: dict[str, float] = Field(default_factory=dict)
    phases_s: dict[str, float] = Field(default_factory=dict)
