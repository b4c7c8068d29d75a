"""`qmtl demo`: the real-time trader against a paper exchange on this machine, live in the terminal."""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.invocation import Invocation, refusing, stamp
from qmtl.cli.paper_exchange import PaperMarket, open_market, parse_seconds, require_port, start_logging
from qmtl.cli.places import Places

if TYPE_CHECKING:
    from qmtl.services.paper_exchange.app import PaperExchange
    from qmtl.settings import Settings

KEY = "demo"
HOST = "127.0.0.1"
_LOOK_EVERY_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    ctx: typer.Context,
    data: Annotated[Path | None, typer.Option("--data", help="1m candles: Parquet, Feather or CSV.")] = None,
    speed: Annotated[
        str | None, typer.Option("--speed", help="Exchange seconds per second; default 60.")
    ] = None,
    seconds: Annotated[str | None, typer.Option("--for", help="Stop after so many real seconds.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="BTCUSDT, BTC/USDT, BTC/USDT:USDT.")] = None,
    port: Annotated[
        str | None, typer.Option("--port", help="Of the paper exchange; 0 picks a free one.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Trade recorded or synthetic candles on a paper exchange: no key, no network, no money."""
    del no_open  # nothing is opened where there is no dashboard
    invocation: Invocation = ctx.obj
    settings = invocation.load(
        {
            "--data": ("demo.data", data),
            "--speed": ("demo.speed", speed),
            "--symbol": ("demo.symbol", symbol),
            "--port": ("demo.port", port),
        }
    ).settings
    section = settings.demo
    for_s = parse_seconds(seconds)
    name = section.symbol or settings.trader.symbol
    market = open_market(name, section.speed, section.seed, section.data, is_shifted=False)
    require_port(HOST, section.port, "--port")
    start_logging(invocation, KEY, has_view=True)

    from qmtl.cli.running import run_loop

    run_loop(_demo(invocation, settings, market, for_s))


async def _demo(
    invocation: Invocation, settings: "Settings", market: PaperMarket, seconds: float | None
) -> None:
    from qmtl.cli.live_view import LiveView
    from qmtl.cli.running import LoggedMetrics, Running
    from qmtl.engine.journal import JournalError
    from qmtl.services.paper_exchange.app import PaperExchange
    from qmtl.trader.rt_trader import RealTimeTrader
    from qmtl.trader.warmup import StoredWarmup

    clock = market.clock()
    config = market.config(
        host=HOST, port=settings.demo.port, key=KEY, secret=KEY, wallet=settings.paper_exchange.wallet
    )
    exchange = PaperExchange(config, clock)
    urls = await exchange.start()
    try:
        settings = demo_settings(settings, urls, market.symbol)
        metrics = LoggedMetrics()
        warmup = StoredWarmup(settings, clock, is_fresh=True)
        trader = RealTimeTrader(
            settings, clock=clock, observer=metrics, journal=settings.journal.path, history=warmup.bars
        )
        running = Running(invocation, trader, Places.of(settings), metrics)
        with refusing(JournalError):
            await running.open()
        word = "SYNTHETIC" if market.data is None else "RECORDED"
        banner = f"{word} · paper exchange {urls['rest'].removeprefix('http://')}"
        banner += f" · {market.symbol} 1m x{market.speed:g}"
        view = (
            None
            if invocation.is_json or invocation.is_quiet
            else LiveView(invocation.console(), banner, word)
        )
        end = asyncio.get_running_loop().create_task(_stop_at_end(exchange, running.stop))
        try:
            await running.run(seconds, view)
        finally:
            end.cancel()
    finally:
        await exchange.stop()
    summary = running.summary()
    invocation.say(dump_verdict(summary))
    invocation.answer(summary, running.last_line())


def dump_verdict(summary: Mapping[str, Any]) -> str:
    """Return what the run earned and what it cost, without flattery."""
    pnl, fees = Decimal(summary["pnl"]), Decimal(summary["fees"])
    verdict = "it lost" if pnl < 0 else "too short a run to mean anything"
    earned = f"PnL {pnl:+,.2f} = gross {pnl + fees:+,.2f}, fees {-fees:+,.2f}".replace("-", "−")
    example = "the shipped strategy is an example, and loses after fees on recorded data"
    return f"{summary['fills']} fills · {earned} · {verdict}; {example}"


def demo_settings(settings: "Settings", urls: dict[str, str], symbol: str) -> "Settings":
    """Return the settings with the account of the paper exchange and a journal of this run's own."""
    from pydantic import SecretStr

    port = int(urls["rest"].rpartition(":")[2])
    name = KEY if port == type(settings.demo)().port else f"{KEY}-{port}"
    folder = settings.journal.directory / KEY
    account = settings.account.model_copy(
        update={
            "name": name,
            "key_file": None,
            "api_key": SecretStr(KEY),
            "secret": SecretStr(KEY),
            "base_url": urls["rest"],
            "ws_url": urls["ws"],
            "fills": "venue",
            "position_mode": "one_way",
        }
    )
    return settings.model_copy(
        update={
            "account": account,
            "trader": settings.trader.model_copy(update={"symbol": symbol}),
            "journal": settings.journal.model_copy(
                update={"path": _fresh(folder), "backup_directory": folder / "backups"}
            ),
        }
    )


def _fresh(folder: Path) -> Path:
    name = stamp()
    path = folder / f"{name}.db"
    number = 2
    while path.exists():
        path, number = folder / f"{name}-{number}.db", number + 1
    return path


async def _stop_at_end(exchange: "PaperExchange", stop: Callable[[str], None]) -> None:
    while exchange.exchange.next_ms is not None:  # noqa: ASYNC110 - the exchange tells no event for it
        await asyncio.sleep(_LOOK_EVERY_S)
    stop("the candles ended")
