"""One WebSocket connection that comes back."""

from collections.abc import Awaitable, Callable
from typing import Literal

import aiohttp
import structlog

from qmtl.core.order import BrokerageError
from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.backoff import Reconnect

HEARTBEAT_S = 10.0
"""A ping goes out when nothing came for so long; no pong in half of it ends the connection."""

# A half-open peer never answers the closing handshake: its silence must not hold us up.
_CLOSE_SOON = aiohttp.ClientWSTimeout(ws_close=1.0)
_Socket = aiohttp.ClientWebSocketResponse[Literal[False]]
_log = structlog.get_logger("qmtl.socket")


def describe_break(error: Exception) -> str:
    """Return a network error in words, without the address it may name: a stream's address holds its key."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"HTTP {error.status} {error.message}".strip()
    return f"{type(error).__name__}: {error}"


class ReconnectingSocket:
    """Keeps one connection standing: `find_url` is asked before every attempt, `take` gets each frame.

    `on_open` is called when a connection stands, `on_break` with the reason when it no longer does. A
    BrokerageError of `find_url` is a break like any other, except at the very first attempt: then it is
    raised, for configuration that is wrong stays wrong.
    """

    def __init__(
        self,
        name: str,
        session: Callable[[], aiohttp.ClientSession],
        clock: Clock,
        reconnect: Reconnect,
        *,
        find_url: Callable[[], Awaitable[str]],
        take: Callable[[bytes], None],
        on_open: Callable[[], None],
        on_break: Callable[[str], None],
    ) -> None:
        self.name = name
        self.connects = 0
        self.reconnect = reconnect
        self._session = session
        self._clock = clock
        self._find_url = find_url
        self._take = take
        self._on_open = on_open
        self._on_break = on_break
        self._socket: _Socket | None = None
        self._why = ""

    async def run(self) -> None:
        """Connect, read, connect again, until cancelled or the budget is spent."""
        while True:
            try:
                url = await self._find_url()
                # The mapper reads bytes; decoding them to text first would be work for nothing.
                async with self._session().ws_connect(
                    url,
                    heartbeat=HEARTBEAT_S,
                    compress=0,
                    max_msg_size=0,
                    decode_text=False,
                    timeout=_CLOSE_SOON,
                ) as socket:
                    self._socket, self._why = socket, ""
                    self.connects += 1
                    self.reconnect.opened()
                    self._on_open()
                    await self._read(socket)
                    reason = self._why or f"closed by the venue ({socket.close_code})"
            except (aiohttp.ClientError, OSError) as error:
                reason = describe_break(error)
            except BrokerageError as error:
                if not self.connects and not isinstance(error, ConnectionError):
                    raise
                reason = str(error)
            self._socket = None
            delay_s = self.reconnect.broke()
            self._on_break(reason)
            _log.warning("socket lost", stream=self.name, reason=reason, delay_s=delay_s, action="reconnects")
            if delay_s is None:
                raise ConnectionError(f"{self.name}: {reason}; the reconnect budget is spent")
            await self._clock.sleep(delay_s)

    async def _read(self, socket: _Socket) -> None:
        take = self._take
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                take(message.data)

    async def kick(self, reason: str) -> None:
        """Close the connection that stands, so that a new one is made."""
        if self._socket is not None:
            self._why = reason
            socket, self._socket = self._socket, None
            await socket.close()
