"""Marker files: an unsigned yes beside the request, as older set-ups have it (APR-2), which stage and desk read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hyops.control.approval import Marker
from hyops.errors import RecordError
from hyops.model.base import Name, Part, Text
from hyops.ports.records import RecordStore

MARKER_SUFFIX = ".approved"


class MarkerFile(Part):
    """`<dispatch_id>.approved.json` (APR-2). A warning is acknowledged by its whole text, as in the request."""

    approved_by: Name
    note: Text | None = Field(default=None)
    acknowledged_warnings: Annotated[list[Text], Field(max_length=1000)] = Field(default_factory=list)


def marker_id_of(dispatch_id: str) -> str:
    """The name of a request's marker."""
    return f"{dispatch_id}{MARKER_SUFFIX}"


def request_of(marker_id: str) -> str | None:
    """The id of the request that a marker is of; None when the name is no marker's."""
    return marker_id.removesuffix(MARKER_SUFFIX) if marker_id.endswith(MARKER_SUFFIX) else None


def read_marker(data: bytes, dispatch_id: str) -> Marker:
    """The marker of one request; RecordError says what is wrong with the file."""
    name = marker_id_of(dispatch_id)
    said = MarkerFile.read(data, source=name)
    return Marker(name, dispatch_id, said.approved_by, said.note, tuple(said.acknowledged_warnings))


def markers_of(store: RecordStore, dispatch_id: str) -> list[Marker]:
    """The marker of a request, when there is one that can be read."""
    try:
        return [read_marker(store.read(marker_id_of(dispatch_id)), dispatch_id)]
    except (KeyError, RecordError):
        return []
