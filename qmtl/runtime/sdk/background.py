"""The one background loop thread of the SDK: all broker I/O runs there, whoever calls, notebooks included."""

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")


class BackgroundLoop:
    """An event loop on a daemon thread, started at the first use; it owns the process's HTTP session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: aiohttp.ClientSession | None = None

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run `coroutine` on the loop and return its future."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="qmtl-broker", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` to its end and return what it returns; RuntimeError on the loop's own thread."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a synchronous broker call inside the broker's own loop would wait for itself")
        return self.start(coroutine).result()

    async def session(self) -> "aiohttp.ClientSession":
        """Return the shared HTTP session; only for coroutines that run on this loop."""
        import aiohttp

        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def close(self) -> None:
        """Close the session and end the thread; the next use starts another."""
        with self._lock:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                return
            if self._session is not None:
                asyncio.run_coroutine_threadsafe(self._session.close(), loop).result(5)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
            loop.close()
            self._loop = self._thread = self._session = None


BACKGROUND = BackgroundLoop()
"""The loop every client of this process shares."""
