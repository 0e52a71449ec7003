"""A request that is given up leaves no connection, whatever it was doing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import sys
from collections.abc import Iterator

import pytest

from fakes.server import authority_files
from hyops.adapters.authority_http import opened
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.adapters.http_client import GIVEN_UP, httpx, tls_for
from waiting import PATIENCE_S

LIMIT_S = PATIENCE_S


@pytest.fixture
def no_collector() -> Iterator[None]:
    """A service that runs for long has its garbage collected now and then, and its connections are open until then."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


class Silent:
    """Accepts, says nothing of TLS, and sees whether the other side hangs up."""

    def __init__(self) -> None:
        self.spoken_to, self.hung_up = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        await reader.read(1)
        self.spoken_to.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        self.hung_up.set()
        writer.close()


@pytest.mark.req("SEC-1", "FEN-2")
@pytest.mark.parametrize("who", ["a client", "an authority", "etcd"])
@pytest.mark.usefixtures("no_collector")
def test_a_handshake_that_is_given_up_leaves_no_connection(who: str) -> None:
    """The peer accepts and stays silent; the request is cancelled, and the peer sees the connection end at once."""

    async def asked(url: str) -> None:
        if who == "etcd":
            await EtcdGateway([url], attempt_s=LIMIT_S, limit_s=LIMIT_S).call("/v3/kv/range", {})
        elif who == "an authority":
            async with opened("authority", LIMIT_S, authority_files()[0], tls=True) as authority:
                await authority.call("GET", url)
        else:
            async with httpx.AsyncClient(verify=tls_for([url]), trust_env=False, event_hooks=GIVEN_UP) as client:
                await client.get(url)

    async def body() -> None:
        silent = Silent()
        async with await asyncio.start_server(silent.serve, "127.0.0.1", 0) as server:
            task = asyncio.create_task(asked(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            await asyncio.wait_for(silent.spoken_to.wait(), LIMIT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(silent.hung_up.wait(), LIMIT_S)

    asyncio.run(body())


@pytest.mark.req("LOOP-1")
def test_no_request_searches_for_a_library_that_is_not_there() -> None:
    """httpcore asks for `sniffio` twice in each request: what is not installed is known once (0.4 ms a request)."""
    assert importlib.util.find_spec("sniffio") is not None or "sniffio" in sys.modules
