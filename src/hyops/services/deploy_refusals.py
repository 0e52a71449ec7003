"""What a stage's refusal means for whoever waits for it: the error whose exit code says what to do (UX-1)."""

from __future__ import annotations

from hyops.errors import (
    HyopsError,
    NotApprovedError,
    PrerequisiteError,
    StaleGenerationError,
    UnsafePlanError,
)
from hyops.model.refusal import Refusal


def refused_by(refusal: Refusal | None, why: str = "") -> HyopsError:
    """The error for a recorded refusal, or for records that are not those that were shown (None)."""
    if refusal is None:
        return UnsafePlanError(why)
    text = f"{refusal.subject_id} was refused by the {refusal.stage} stage: {refusal.reason}"
    if refusal.stage == "approval":
        return NotApprovedError(text)
    if refusal.reason.startswith("stale"):
        return StaleGenerationError(text)
    if refusal.reason.startswith("expired"):
        return NotApprovedError(text)
    return PrerequisiteError(text, hint="mend what the stage names, then ask again")
