"""The WebSocket order API: the faster road of orders, one socket, many calls under way.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-api-general-info.
"""

import asyncio
from itertools import count
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_orders import OrderRequest
from qmtl.runtime.io.binance_payloads import AlgoPayload, OrderPayload, parse_algo, parse_order
from qmtl.runtime.io.binance_rest import BinanceError
from qmtl.runtime.sdk.reconnecting_socket import describe_break

_HEARTBEAT_S = 15.0


_SOCKETS = {
    "fapi.binance.com": "wss://ws-fapi.binance.com/ws-fapi/v1",
    "testnet.binancefuture.com": "wss://testnet.binancefuture.com/ws-fapi/v1",
    "demo-fapi.binance.com": "wss://testnet.binancefuture.com/ws-fapi/v1",
}


def find_socket_url(base_url: URL) -> str:
    """Return the order socket that belongs to a REST address, never another venue's.

    A host not in the table serves both: a paper exchange does.
    """
    scheme = "wss" if base_url.scheme == "https" else "ws"
    return _SOCKETS.get(base_url.host or "") or str(base_url.with_scheme(scheme) / "ws-fapi/v1")


class _Error(msgspec.Struct):
    code: int = 0
    msg: str = ""


class _Answer(msgspec.Struct):
    id: int | str | None = None
    status: int = 0
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


class BinanceOrderSocket:
    """Places and cancels orders over `wss://…/ws-fapi/v1`; connects at first use and again after a break.

    A BinanceFuturesVenue takes it as its `road`: a call whose answer never came raises, and the send policy
    looks it up over REST. Raises ConnectionRefusedError when nothing was sent.
    """

    def __init__(self, client: BinanceFuturesClient, url: str, timeout_s: float = 5.0) -> None:
        self._client = client
        self._url = url
        self._timeout_s = timeout_s
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[_Answer]] = {}
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def post(self, request: OrderRequest) -> OrderPayload | AlgoPayload:
        """See OrderRoad."""
        answer = await self._call(request.method, request.params)
        return parse_algo(answer) if request.is_algo else parse_order(answer)

    async def delete(self, request: OrderRequest) -> OrderPayload | None:
        """See OrderRoad."""
        answer = await self._call(request.method, request.params)
        return None if request.is_algo else parse_order(answer)

    async def _call(self, method: str, params: dict[str, str]) -> bytes:
        await self._client.policy.wait_turn()
        socket = await self._open()
        number = next(self._ids)
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        body: dict[str, Any] = {"id": number, "method": method, "params": self._client.sign_socket(params)}
        try:
            await socket.send_frame(_encode(body), aiohttp.WSMsgType.TEXT)
            answer = await asyncio.wait_for(waiting, self._timeout_s)
        finally:
            self._waiting.pop(number, None)
        if answer.error is not None or not 200 <= answer.status < 300:
            error = answer.error or _Error()
            raise BinanceError(error.code, error.msg, answer.status)
        return bytes(answer.result)

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        async with self._opening:
            if self._socket is None or self._socket.closed:
                try:
                    self._socket = await self._client.session.ws_connect(
                        self._url, heartbeat=_HEARTBEAT_S, compress=0
                    )
                except (aiohttp.ClientError, OSError) as error:
                    # Whatever went wrong, no order left the process.
                    raise ConnectionRefusedError(describe_break(error)) from error
                self._reader = asyncio.create_task(self._read(self._socket))
            return self._socket

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            answer = _decode(message.data)
            waiting = self._waiting.get(answer.id) if isinstance(answer.id, int) else None
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the order socket closed before the answer"))

    async def aclose(self) -> None:
        """Close the socket; calls under way raise ConnectionResetError."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await self._reader
