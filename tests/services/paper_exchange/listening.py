"""Hears what the exchange sends on a socket; the waiting times only bound a failure."""

from typing import Any

import aiohttp
import msgspec

PATIENCE_S = 60.0
_MARK = "all of it"


async def hear(socket: Any, count: int) -> list[Any]:
    """The next `count` messages."""
    return [msgspec.json.decode((await socket.receive(timeout=PATIENCE_S)).data) for _ in range(count)]


async def drained(socket: Any) -> list[Any]:
    """Every message that is already on its way, and "closed" where they end with the connection.

    The answer to a question of our own comes after them: no time is waited for.
    """
    await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": _MARK})
    heard: list[Any] = []
    while True:
        message = await socket.receive(timeout=PATIENCE_S)
        if message.type is not aiohttp.WSMsgType.TEXT:
            return [*heard, "closed"]
        body = msgspec.json.decode(message.data)
        if isinstance(body, dict) and body.get("id") == _MARK:
            return heard
        heard.append(body)
