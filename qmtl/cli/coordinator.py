"""`qmtl coordinator`: leases on history, for workers on many machines."""

from typing import Annotated

import typer

from qmtl.cli.invocation import CommandFailedError, Invocation, one_line, refusing
from qmtl.cli.paper_exchange import parse_seconds, require_port, start_logging


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("coordinator")(coordinator)


def coordinator(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option("--host", help="Default 127.0.0.1.")] = None,
    port: Annotated[str | None, typer.Option("--port", help="0 picks a free one; default 8090.")] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="sqlite:///PATH, postgresql://… or file:PATH that says it.")
    ] = None,
    seconds: Annotated[str | None, typer.Option("--for", help="Stop after so many real seconds.")] = None,
) -> None:
    """Serve leases on history to workers on many machines, so that each cell is fetched once."""
    invocation: Invocation = ctx.obj
    settings = invocation.load(
        {
            "--host": ("coordinator.bind.host", host),
            "--port": ("coordinator.bind.port", port),
            "--store": ("coordinator.store", store),
        }
    ).settings
    section = settings.coordinator
    for_s = parse_seconds(seconds)
    require_port(section.bind.host, section.bind.port, "--port")

    import asyncio

    from qmtl.cli.serving import serve
    from qmtl.config import reveal
    from qmtl.runtime.io.leases import LeaseStore
    from qmtl.runtime.sdk.history import StoreError
    from qmtl.services.coordinator.app import create_app

    with refusing(ValueError):
        leases = LeaseStore(reveal(section.store))
        app = create_app(settings)
    start_logging(invocation, "coordinator")

    async def look() -> None:
        try:
            await leases.now_ms()
        finally:
            await leases.aclose()

    try:
        # A database that is not there is told before anything listens.
        asyncio.run(look())
    except StoreError as error:
        raise CommandFailedError(one_line(error)) from error

    def say(url: str) -> None:
        body = {"url": url, "store": leases.backend, "auth": app.state.auth_mode}
        text = f"coordinator {url} · leases in {leases.backend} · auth {app.state.auth_mode}"
        invocation.answer(body, text)

    serve(app, section.bind.host, section.bind.port, for_s, say)
