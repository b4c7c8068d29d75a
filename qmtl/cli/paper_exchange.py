"""`qmtl paper-exchange`: the Binance-compatible exchange alone, for any client."""

import asyncio
import contextlib
import signal
import socket
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmtl.cli.invocation import BadInputError, Invocation, now_ms, refusing

if TYPE_CHECKING:
    from qmtl.engine.ports import Clock
    from qmtl.services.paper_exchange.settings import PaperExchangeConfig

HISTORY = 3_000
"""Candles before the start: what clients ask for when they warm up."""
AHEAD = 1_440
_PORTS_TRIED = 50
_MINUTE_MS = 60_000


@dataclass(frozen=True)
class PaperMarket:
    """The market of a paper exchange: recorded candles, or synthetic ones without a file.

    `is_shifted` moves recorded candles so that the present lies between them; else exchange time begins
    at `origin_ms`, when enough of them are history.
    """

    symbol: str
    speed: float
    seed: int
    data: Path | None = None
    funding: Path | None = None
    is_shifted: bool = False
    origin_ms: int = 0
    history: int = HISTORY
    ahead: int = AHEAD

    def clock(self) -> "Clock":
        """Return the exchange's clock, started now."""
        from qmtl.engine.clock import ScaledClock, SystemClock

        if self.speed == 1 and not self.origin_ms:
            return SystemClock()
        return ScaledClock(self.origin_ms or now_ms(), self.speed)

    def config(
        self, *, host: str, port: int, key: str, secret: str, wallet: Decimal
    ) -> "PaperExchangeConfig":
        """Return the settings of an exchange with this one market and one account."""
        from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig

        market = MarketSettings(
            symbol=self.symbol,
            candles=self.data,
            funding=self.funding,
            seed=self.seed,
            history=self.history,
            is_shifted=self.is_shifted,
            ahead=self.ahead,
        )
        return PaperExchangeConfig(
            host=host, port=port, markets=(market,), accounts={key: secret}, balance=wallet, seed=self.seed
        )


def open_market(
    symbol: str, speed: float, seed: int, data: Path | None, funding: Path | None = None, *, is_shifted: bool
) -> PaperMarket:
    """Look at the candle file once, so that what is wrong with it is said before anything starts."""
    if data is None:
        return PaperMarket(symbol, speed, seed)
    from qmtl.core.bar import BarError
    from qmtl.services.paper_exchange.candles import load_candles

    with refusing(BarError, OSError):
        bars = load_candles(data)
    if len(bars) < 4:
        raise BadInputError(f"{data}: {len(bars)} candles; at least 4 are needed")
    history = min(HISTORY if is_shifted else 500, len(bars) // 2)
    ahead = min(AHEAD, len(bars) - history)
    origin = 0 if is_shifted else bars[history].open_ms
    return PaperMarket(
        symbol,
        speed,
        seed,
        data,
        funding,
        is_shifted=is_shifted,
        origin_ms=origin,
        history=history,
        ahead=ahead,
    )


def require_port(host: str, port: int, option: str) -> None:
    """Refuse a port that is taken, naming it and a free one; 0 is any free port."""
    if port and not _is_free(host, port):
        others = (
            other for other in range(port + 1, min(port + _PORTS_TRIED, 65_536)) if _is_free(host, other)
        )
        suggestion = next(others, 0)
        raise BadInputError(f"port {port} is taken on {host}; try {option} {suggestion}")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("paper-exchange")(paper_exchange)


def paper_exchange(
    ctx: typer.Context,
    data: Annotated[Path | None, typer.Option("--data", help="1m candles: Parquet, Feather or CSV.")] = None,
    speed: Annotated[
        float | None, typer.Option("--speed", help="Exchange seconds per second; default 1.")
    ] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="BTCUSDT, BTC/USDT, BTC/USDT:USDT.")] = None,
    port: Annotated[str | None, typer.Option("--port", help="0 picks a free one; default 8610.")] = None,
    seconds: Annotated[str | None, typer.Option("--for", help="Stop after so many real seconds.")] = None,
) -> None:
    """Serve a Binance-compatible USDT-M and spot exchange on loopback, without keys or network."""
    from qmtl.config import reveal

    invocation: Invocation = ctx.obj
    settings = invocation.load(
        {
            "--data": ("paper_exchange.data", data),
            "--speed": ("paper_exchange.speed", speed),
            "--symbol": ("paper_exchange.symbol", symbol),
            "--port": ("paper_exchange.port", port),
        }
    ).settings
    section = settings.paper_exchange
    for_s = parse_seconds(seconds)
    market = open_market(
        section.symbol, section.speed, section.seed, section.data, section.funding, is_shifted=True
    )
    require_port(section.host, section.port, "--port")
    key, secret = reveal(section.api_key), reveal(section.secret)
    config = market.config(
        host=section.host, port=section.port, key=key, secret=secret, wallet=section.wallet
    )
    start_logging(invocation, "paper-exchange")
    asyncio.run(_serve(invocation, config, market, key, for_s))


def parse_seconds(text: str | None) -> float | None:
    """Return the real seconds of --for, None when it was not given; refuse what is no positive number."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadInputError(f"--for: found {text!r}, expected a number of seconds > 0")
    return seconds


def start_logging(
    invocation: Invocation, account: str, secrets: tuple[str, ...] = (), *, has_view: bool = False
) -> None:
    """Send logs where the configuration says, else to stderr, where only warnings are worth a line.

    While a live view has the terminal they go to a file of the account instead.
    """
    from qmtl import __version__, logs
    from qmtl.cli.invocation import mint_run_id

    settings = invocation.load().settings
    section, path = settings.logs, settings.logs.path
    if path is None and has_view and sys.stdout.isatty() and not (invocation.is_json or invocation.is_quiet):
        path = settings.journal.directory / "logs" / f"{account}.log"
    level = "DEBUG" if invocation.is_verbose else section.level
    if path is None and not invocation.is_verbose:
        level = "ERROR" if invocation.is_quiet else "WARNING"
    logs.set_up(
        level=level,
        is_json=section.format == "json",
        path=path,
        secrets=secrets,
        context={"account": account, "run_id": mint_run_id(), "version": __version__},
    )


async def _serve(
    invocation: Invocation,
    config: "PaperExchangeConfig",
    market: PaperMarket,
    key: str,
    seconds: float | None,
) -> None:
    from qmtl.services.paper_exchange.app import PaperExchange

    exchange: PaperExchange = PaperExchange(config, market.clock())
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    urls = await exchange.start()
    try:
        source = str(market.data) if market.data else "SYNTHETIC"
        body = {**urls, "symbol": market.symbol, "speed": market.speed, "api_key": key, "data": source}
        text = f"paper exchange {urls['rest']} · {urls['ws']} · {market.symbol} · {source} · key {key}"
        if config.accounts[key] == key:
            text += " · the secret is the key"
        invocation.answer(body, text)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), seconds)
    finally:
        await exchange.stop()
