"""A connection that comes back, says why it went, and never says its address."""

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise

import pytest
import structlog
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from qmtl.runtime.sdk.backoff import Reconnect
from qmtl.runtime.sdk.brokerage.result import VenueUnavailable
from qmtl.runtime.sdk.brokerage.send_policy import HttpStatusError
from qmtl.runtime.sdk.reconnecting_socket import _FRAMES_A_TURN, ReconnectingSocket
from tests.runtime.leap_clock import LeapClock, MidRandom

LISTEN_KEY = "planted-listen-key-7"


class Wire:
    """A server that answers each connection as the script says: a status, or frames and then a close."""

    def __init__(self, *script: int | list[str]) -> None:
        self.script = list(script)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        step = self.script.pop(0) if self.script else []
        if isinstance(step, int):
            return web.Response(status=step)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for text in step:
            await socket.send_str(text)
        if not self.script:
            await asyncio.sleep(30)
        await socket.close()
        return socket


async def play(
    *script: int | list[str], max_retries: int | None = None, beside: Callable[[list[bytes]], object] = len
) -> tuple[list[bytes], list[str], str]:
    """Run a socket against the script; return its frames, its breaks and how it ended."""
    app = web.Application()
    app.router.add_get("/{rest:.*}", Wire(*script).handle)
    server = TestServer(app)
    await server.start_server()
    frames: list[bytes] = []
    breaks: list[str] = []

    async def find_url() -> str:
        return str(server.make_url(f"/private/ws?listenKey={LISTEN_KEY}"))

    async with ClientSession() as session:
        clock = LeapClock()
        socket = ReconnectingSocket(
            "user",
            lambda: session,
            clock,
            Reconnect(clock, MidRandom(), max_retries=max_retries),
            find_url=find_url,
            take=frames.append,
            on_open=lambda: None,
            on_break=lambda broken: breaks.append(broken.reason),
        )
        task = asyncio.create_task(socket.run())
        wanted = sum(len(step) for step in script if isinstance(step, list))
        while not task.done() and len(frames) < wanted:
            beside(frames)
            await asyncio.sleep(0)
        ending = ""
        if task.done():
            ending = str(task.exception())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await server.close()
    return frames, breaks, ending


async def test_it_comes_back_after_refusals_and_closes() -> None:
    with structlog.testing.capture_logs() as logs:
        frames, breaks, _ = await play(503, ["a", "b"], 401, ["c"])
    assert frames == [b"a", b"b", b"c"]
    assert len(breaks) == 3
    assert breaks[0].startswith("HTTP 503")
    assert "closed by the peer" in breaks[1]
    assert LISTEN_KEY not in json.dumps([breaks, logs], default=str)


async def test_whoever_handles_a_flood_gets_a_turn_before_all_of_it_is_read() -> None:
    seen = [0]
    await play(["{}"] * 20_000, beside=lambda frames: seen.append(len(frames)))
    assert max(after - before for before, after in pairwise(seen)) <= 2 * _FRAMES_A_TURN


async def test_a_spent_budget_ends_it() -> None:
    _, breaks, ending = await play(503, 503, 503, ["never"], max_retries=2)
    assert len(breaks) == 3
    assert "the reconnect budget is spent" in ending
    assert LISTEN_KEY not in ending


@pytest.mark.parametrize(
    ("error", "is_raised"), [(VenueUnavailable("no route"), False), (HttpStatusError(401, "no"), True)]
)
async def test_wrong_configuration_is_raised_at_the_first_attempt(error: Exception, is_raised: bool) -> None:
    clock = LeapClock()

    async def find_url() -> str:
        raise error

    async with ClientSession() as session:
        socket = ReconnectingSocket(
            "user",
            lambda: session,
            clock,
            Reconnect(clock, MidRandom(), max_retries=3),
            find_url=find_url,
            take=lambda _body: None,
            on_open=lambda: None,
            on_break=lambda _why: None,
        )
        with pytest.raises(type(error) if is_raised else ConnectionError) as caught:
            await socket.run()
    assert ("budget" in str(caught.value)) is not is_raised
