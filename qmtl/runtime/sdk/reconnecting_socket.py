"""One WebSocket connection that comes back."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal

import aiohttp
import msgspec
import structlog

from qmtl.core.order import BrokerageError
from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.backoff import Reconnect
from qmtl.runtime.sdk.socket_watch import SocketWatch

HEARTBEAT_S = 10.0
"""Without a watch a ping goes out when nothing came for so long; no pong in half of it ends it."""

# A half-open peer never answers the closing handshake: its silence must not hold us up.
_CLOSE_SOON = aiohttp.ClientWSTimeout(ws_close=0.5)
# What has arrived is read without waiting; whoever handles the frames needs a turn before thousands are read.
_FRAMES_A_TURN = 256
Socket = aiohttp.ClientWebSocketResponse[Literal[False]]
_log = structlog.get_logger("qmtl.socket")


class Break(msgspec.Struct, frozen=True):
    """Why a connection ended or never stood; `delay_s` is None when no further attempt follows."""

    reason: str
    delay_s: float | None
    is_final: bool = False


def describe_break(error: Exception) -> str:
    """Return a network error in words, without the address it may name: a stream's address holds its key."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"HTTP {error.status} {error.message}".strip()
    if isinstance(error, aiohttp.InvalidURL):
        return type(error).__name__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class ReconnectingSocket:
    """Keeps one connection standing: `find_url` is asked before every attempt, `take` gets each frame.

    `on_open` is called when a connection stands, `on_break` when it no longer does or an attempt failed.
    With `make_watch` the watch pings and decides when to give a connection up. `is_final` tells of an HTTP
    status or close code that no further attempt will change. A BrokerageError of `find_url` is a break
    like any other, except at the very first attempt: then it is raised, for configuration that is wrong
    stays wrong.
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
        on_break: Callable[[Break], None],
        find_headers: Callable[[], Mapping[str, str]] = dict,
        make_watch: Callable[[], SocketWatch] | None = None,
        is_final: Callable[[int], bool] = lambda _code: False,
    ) -> None:
        self.name = name
        self.connects = 0
        self.reconnect = reconnect
        self.socket: Socket | None = None
        self._session = session
        self._clock = clock
        self._find_url = find_url
        self._find_headers = find_headers
        self._take = take
        self._on_open = on_open
        self._on_break = on_break
        self._make_watch = make_watch
        self._is_final = is_final
        self._kicked: asyncio.Future[str] | None = None
        self._sends: set[asyncio.Future[Any]] = set()

    async def run(self) -> None:
        """Connect, read, connect again, until cancelled; ConnectionError when that is no longer of use."""
        while True:
            broken = await self._live()
            _log.warning(
                "socket lost",
                stream=self.name,
                reason=broken.reason,
                delay_s=broken.delay_s,
                action="gives up" if broken.delay_s is None else "reconnects",
            )
            if broken.delay_s is None:
                why = "no further attempt would help" if broken.is_final else "the reconnect budget is spent"
                raise ConnectionError(f"{self.name}: {broken.reason}; {why}")
            await self._clock.sleep(broken.delay_s)

    def kick(self, reason: str) -> None:
        """End the connection that stands, so that a new one is made."""
        if self._kicked is not None and not self._kicked.done():
            self._kicked.set_result(reason)

    def send(self, text: str) -> None:
        """Send a text frame on the connection that stands; lost when none does."""
        if self.socket is not None:
            self._send(self.socket.send_str(text))

    async def _live(self) -> Break:
        """Make one attempt and keep what came of it until it breaks."""
        try:
            url = await self._find_url()
            # The readers take bytes; decoding them to text first would be work for nothing.
            async with self._session().ws_connect(
                url,
                headers=self._find_headers(),
                heartbeat=HEARTBEAT_S if self._make_watch is None else None,
                autoping=self._make_watch is None,
                compress=0,
                max_msg_size=0,
                decode_text=False,
                timeout=_CLOSE_SOON,
            ) as socket:
                self.connects += 1
                self.reconnect.opened()
                reason = await self._serve(socket)
                # The break is told before the closing handshake, which a dead peer would draw out.
                return self._broke(reason, socket.close_code)
        except BrokerageError as error:
            if not self.connects and not isinstance(error, ConnectionError):
                raise
            return self._broke(str(error))
        except (aiohttp.ClientError, OSError) as error:
            return self._broke(describe_break(error), getattr(error, "status", None))

    def _broke(self, reason: str, code: int | None = None) -> Break:
        delay_s = self.reconnect.broke()
        is_final = code is not None and self._is_final(code)
        broken = Break(reason, None if is_final else delay_s, is_final)
        self._on_break(broken)
        return broken

    async def _serve(self, socket: Socket) -> str:
        """Read until the peer closes, the watch loses patience or somebody kicks; return why it ended."""
        self.socket = socket
        self._kicked = kicked = asyncio.get_running_loop().create_future()
        watch = None if self._make_watch is None else self._make_watch()
        reader = asyncio.ensure_future(
            self._read(socket) if watch is None else self._read_watched(socket, watch)
        )
        tasks: set[asyncio.Future[str]] = {reader, kicked}
        if watch is not None:
            tasks.add(asyncio.ensure_future(watch.run(lambda: self._send(socket.ping()))))
        self._on_open()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # What the peer said comes before what was made of its silence.
            return (reader if reader in done else done.pop()).result()
        finally:
            self.socket = self._kicked = None
            tasks |= self._sends
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, socket: Socket) -> str:
        take, left = self._take, _FRAMES_A_TURN
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                take(message.data)
            left -= 1
            if not left:
                await asyncio.sleep(0)
                left = _FRAMES_A_TURN
        return _describe_end(socket)

    async def _read_watched(self, socket: Socket, watch: SocketWatch) -> str:
        left = _FRAMES_A_TURN
        async for message in socket:
            left -= 1
            if not left:
                await asyncio.sleep(0)
                left = _FRAMES_A_TURN
            kind = message.type
            is_data = kind is aiohttp.WSMsgType.TEXT or kind is aiohttp.WSMsgType.BINARY
            watch.heard(is_data=is_data, is_pong=kind is aiohttp.WSMsgType.PONG)
            if is_data:
                self._take(message.data)
            elif kind is aiohttp.WSMsgType.PING:
                self._send(socket.pong(message.data))
        return _describe_end(socket)

    def _send(self, sending: Coroutine[Any, Any, None]) -> None:
        # A peer that reads no more would hold up whoever awaited this; the reader tells of broken pipes.
        task: asyncio.Future[Any] = asyncio.ensure_future(sending)
        self._sends.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Future[Any]) -> None:
        self._sends.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("not sent", stream=self.name, reason=str(error))


def _describe_end(socket: Socket) -> str:
    error = socket.exception()
    if isinstance(error, Exception):
        return describe_break(error)
    return f"closed by the peer ({socket.close_code})"
