"""Keys of a URL are fetched when needed, followed as they change, and asked for no oftener than that."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.services.auth.key_source import JwksUrl
from qmtl.services.auth.keys import make_key
from qmtl.services.auth.principal import KeysUnavailableError

FIRST, SECOND = make_key(SeededRandom(1)), make_key(SeededRandom(2))


class KeyServer:
    """Serves a key set over HTTP, counting who asks."""

    def __init__(self) -> None:
        self.keys = [FIRST.jwk]
        self.is_broken = False
        self.asked = 0
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.is_broken:
            return web.Response(status=500)
        return web.Response(text=json.dumps({"keys": self.keys}))


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    app = web.Application()
    app.router.add_get("/jwks", keys.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    keys.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield keys
    await runner.cleanup()


async def test_keys_are_followed(server: KeyServer) -> None:
    clock = VirtualClock()
    keys = JwksUrl(server.url, clock)
    assert server.asked == 0
    for _ in range(10):
        assert await keys.find(FIRST.kid) is not None
        assert await keys.find(SECOND.kid) is None
    assert server.asked == 1, "an unknown id makes nobody ask again at once"
    server.keys.append(SECOND.jwk)
    await clock.advance(5.1)
    assert await keys.find(SECOND.kid) is not None
    assert server.asked == 2
    server.keys.remove(FIRST.jwk)
    await clock.advance(301)
    assert await keys.find(FIRST.kid) is None
    assert server.asked == 3


async def test_keys_out_of_reach(server: KeyServer) -> None:
    clock = VirtualClock()
    keys = JwksUrl(server.url, clock)
    server.is_broken = True
    for _ in range(3):
        with pytest.raises(KeysUnavailableError):
            await keys.find(FIRST.kid)
    assert server.asked == 1
    server.is_broken = False
    await clock.advance(5.1)
    assert await keys.find(FIRST.kid) is not None
    server.is_broken = True
    await clock.advance(1_000)
    assert await keys.find(FIRST.kid) is not None, "the last ones stay in force"
