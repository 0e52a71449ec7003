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
    """A handler of `before-send`. `check` is told how many bytes have come, 0 before anything is sent, and raises what
    ends the request."""

    def __init__(self, http: URLLib3Session, check: Callable[[int], None]) -> None:
        self._http, self._check = http, check

    def __call__(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """The answer, read; raises botocore's errors as its own sending does."""
        self._check(0)
        request.stream_output = True  # so that the session leaves the body to us
        answer = self._http.send(request)
        data, whole = bytearray(), False
        try:
            for piece in answer.raw.stream(PIECE_BYTES):
                data += piece
                self._check(len(data))
            whole = True
        except urllib3.exceptions.ReadTimeoutError as exc:
            raise ReadTimeoutError(endpoint_url=request.url, error=exc) from exc
        except urllib3.exceptions.HTTPError as exc:
            raise ConnectionClosedError(endpoint_url=request.url, error=exc, request=request) from exc
        finally:
            if not whole:
                answer.raw.close()
        return AWSResponse(answer.url, answer.status_code, answer.headers, _Whole(bytes(data)))


class _Whole:
    """A body that was read, in the place of the library's response."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        """All of it."""
        yield self._data
