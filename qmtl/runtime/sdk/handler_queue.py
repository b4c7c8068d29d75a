"""Calls of user code in order, one after another, beside whoever has something to tell."""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

_TURN_S = 0.005
_log = structlog.get_logger("qmtl.handler")


class HandlerQueue:
    """Holds up to `limit` calls of one handler and makes them in order; what the handler raises is counted.

    The handler may be plain or async; `find_handler` is asked at every call, None drops it.
    """

    def __init__(
        self, name: str, find_handler: Callable[[], Callable[..., Any] | None], limit: int | None = None
    ) -> None:
        self.name = name
        self.errors = 0
        self.delivered = 0
        self._find_handler = find_handler
        self._limit = limit
        self._calls: deque[tuple[Any, ...]] = deque()
        self._filled = asyncio.Event()
        self._is_finished = False

    def put(self, *call: Any) -> bool:
        """Take one call and return whether there was room for it."""
        if self._limit is not None and len(self._calls) >= self._limit:
            return False
        self._calls.append(call)
        self._filled.set()
        return True

    def finish(self) -> None:
        """Let `run` return once everything taken so far is delivered."""
        self._is_finished = True
        self._filled.set()

    def drop(self) -> None:
        """Forget what was not delivered, and finish."""
        self._calls.clear()
        self.finish()

    async def run(self) -> None:
        """Deliver until finished."""
        now_s = asyncio.get_running_loop().time
        while True:
            turn_s = now_s()
            while self._calls:
                await self._deliver(self._calls.popleft())
                # Plain handlers never wait: the readers must get their turn all the same.
                if now_s() - turn_s > _TURN_S:
                    await asyncio.sleep(0)
                    turn_s = now_s()
            if self._is_finished:
                return
            self._filled.clear()
            await self._filled.wait()

    async def _deliver(self, call: tuple[Any, ...]) -> None:
        handler = self._find_handler()
        if handler is None:
            return
        self.delivered += 1
        try:
            answer = handler(*call)
            if inspect.isawaitable(answer):
                await answer
        except Exception:  # noqa: BLE001 - the call into user code; nothing it raises may end the feed
            self.errors += 1
            _log.exception("handler raised", handler=self.name, action="fix the handler; it is called again")
