"""Talks to the control port of a running owner over its UNIX socket."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from qmtl.engine.control import ControlError, ControlRefusedError

_TIMEOUT_S = 10.0


class ControlClient:
    """Use as `async with ControlClient(path) as client`; every call answers with the owner's JSON.

    Calls raise ControlRefusedError when the request is wrong or lacks the account name, ControlError when
    nobody answers or the owner failed.
    """

    def __init__(self, socket_path: Path, *, who: str = "") -> None:
        """Connect at the first call; `who` is journaled beside every change."""
        self.socket_path = socket_path
        self._who = who
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        connector = aiohttp.UnixConnector(path=str(self.socket_path))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_S)
        self._session = aiohttp.ClientSession("http://owner", connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def status(self) -> dict[str, Any]:
        """Return everything the owner shows."""
        return await self._call("GET", "status")

    async def pause(self, why: str = "") -> dict[str, Any]:
        """Stop entries; exits and stops go on working."""
        return await self._call("POST", "pause", who=self._who, why=why)

    async def halt(self, why: str = "") -> dict[str, Any]:
        """Stop everything but cancels, protection and flattening."""
        return await self._call("POST", "halt", who=self._who, why=why)

    async def resume(self, account: str, why: str = "") -> dict[str, Any]:
        """Trade again; needs the account's name."""
        return await self._call("POST", "resume", who=self._who, why=why, account=account)

    async def flatten(self, account: str, why: str = "") -> dict[str, Any]:
        """Close every position reduce-only; needs the account's name."""
        return await self._call("POST", "flatten", who=self._who, why=why, account=account)

    async def set_limit(self, name: str, value: str | None, account: str = "") -> dict[str, Any]:
        """Set a risk limit, None removes it; loosening one needs the account's name."""
        return await self._call("POST", "limit", who=self._who, name=name, value=value, account=account)

    async def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the owner's news until it closes or goes away."""
        try:
            response = await self._open().get("/v1/subscribe")
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from None
        async with response:
            with contextlib.suppress(aiohttp.ClientError):
                async for line in response.content:
                    yield msgspec.json.decode(line)

    async def _call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        try:
            async with self._open().request(
                method,
                f"/v1/{path}",
                data=msgspec.json.encode(body) if body else None,
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            ) as response:
                text = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from None
        try:
            answer = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise ControlError(f"{self.socket_path}: the owner answered {status} without JSON") from None
        if status in {400, 401, 403}:
            raise ControlRefusedError(str(answer.get("error", status)))
        if status >= 400:
            raise ControlError(str(answer.get("error", f"the owner answered {status}")))
        return answer

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ControlError("use the client as a context: async with ControlClient(path) as client")
        return self._session

    def _unreachable(self, error: BaseException) -> ControlError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ControlError(f"no trader answers on {self.socket_path} ({reason})")
