"""Running a web service of ours until it is told to stop."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qmtl.cli.invocation import BadInputError

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve(
    app: "FastAPI", host: str, port: int, seconds: float | None, on_ready: Callable[[str], None]
) -> None:
    """Serve until SIGINT, SIGTERM or the end of `seconds`; `on_ready` is told the URL once it answers."""
    asyncio.run(_serve(app, _bind(host, port), host, seconds, on_ready))


async def _serve(
    app: "FastAPI",
    listener: socket.socket,
    host: str,
    seconds: float | None,
    on_ready: Callable[[str], None],
) -> None:
    import uvicorn

    is_up = asyncio.Event()

    class Server(uvicorn.Server):
        """One that says when it answers, and leaves signals to us: uvicorn would raise them again."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            is_up.set()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    starting = asyncio.ensure_future(is_up.wait())
    waiting = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([starting, serving], return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and server.started:
            name = f"[{host}]" if ":" in host else host
            on_ready(f"http://{name}:{listener.getsockname()[1]}")
            await asyncio.wait([waiting, serving], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        starting.cancel()
        waiting.cancel()
        server.should_exit = True
        await serving


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadInputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener
