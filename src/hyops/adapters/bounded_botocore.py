"""What botocore reads of an answer, bounded: by itself it takes whatever is sent into memory, however much that is.

It asks before it sends whether somebody else would (`before-send`). This one does, with botocore's own HTTP session,
and hands back an answer that is already whole. What was too long is not read further, not asked for again, and its
connection is closed: what is left in it belongs to no later answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import urllib3.exceptions
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError
from botocore.httpsession import URLLib3Session

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

PIECE_BYTES = 64 * 1024


class BoundedSender:
    """A handler of `before-send`. `too_long` makes what is raised for an answer of more than `bytes_max`."""

    def __init__(self, http: URLLib3Session, bytes_max: int, too_long: Callable[[], Exception]) -> None:
        self._http, self._bytes_max, self._too_long = http, bytes_max, too_long

    def __call__(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """The answer, read; raises botocore's errors as its own sending does."""
        request.stream_output = True  # so that the session leaves the body to us
        answer = self._http.send(request)
        data = bytearray()
        try:
            for piece in answer.raw.stream(PIECE_BYTES):
                data += piece
                if len(data) > self._bytes_max:
                    raise self._too_long()
        except urllib3.exceptions.ReadTimeoutError as exc:
            raise ReadTimeoutError(endpoint_url=request.url, error=exc) from exc
        except urllib3.exceptions.HTTPError as exc:
            raise ConnectionClosedError(endpoint_url=request.url, error=exc, request=request) from exc
        finally:
            if len(data) > self._bytes_max:
                answer.raw.close()
        return AWSResponse(answer.url, answer.status_code, answer.headers, _Whole(bytes(data)))


class _Whole:
    """A body that was read, in the place of the library's response."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        """All of it."""
        yield self._data
