"""What one trading session is made of: consents, limits, parameters, as plain data for the journal."""

import asyncio
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import structlog

from qmtl import __version__
from qmtl.config import account_keys, account_name
from qmtl.core.event import SessionSetup, SessionStarted
from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.order import BrokerageError
from qmtl.engine.backup import back_up
from qmtl.engine.engine import Engine
from qmtl.engine.matching import MatchingCore
from qmtl.engine.order_journal import memory_journal
from qmtl.engine.ports import Clock, Venue
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.strategy import StrategyPort
from qmtl.engine.venue_models import VenueModels
from qmtl.runtime.io.binance_feed import FeedSettings
from qmtl.runtime.io.binance_futures import PRODUCTION_URL, BinanceFuturesClient
from qmtl.runtime.io.binance_order_socket import BinanceOrderSocket, find_socket_url
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.runtime.sdk.brokerage.ccxt_futures_client import FuturesCcxtBrokerageClient
from qmtl.runtime.sdk.brokerage.venue import BrokerageVenue
from qmtl.settings import JournalSection, Settings
from qmtl.trader.collector import Collector, KlineCollector
from qmtl.trader.prelim import Prelim, SetupRefusedError

Domain = Literal["dryrun", "live"]
Plain = str | int | float | bool | None

BOLLINGER = "qmtl.trader.callback:Callback"
"""The strategy of `qmtl trade` unless another is named."""

_log = structlog.get_logger("qmtl.trader")
DEMO_URL = "https://demo-fapi.binance.com"
_USUAL_NOTIONAL = Decimal(500)
_SPARE_BARS = 10
"""Asked for beyond the warm-up: the newest bars may reach the REST side a moment later."""


def has_venue_fills(settings: Settings, domain: Domain) -> bool:
    """Tell whether orders leave the process: always live, in dryrun where `account.fills` says venue."""
    return domain == "live" or settings.account.fills == "venue"


def check_consents(settings: Settings, domain: str, typed_account: str | None) -> None:
    """Raise SetupRefusedError naming the first thing that `domain` still needs; reads no network.

    Live needs `connectors.execution_domain: live`, keys, `risk.max_daily_loss` and the account's name typed.
    """
    if domain not in {"dryrun", "live"}:
        raise SetupRefusedError(f"domain: expected dryrun or live, got {domain!r}")
    has_keys = account_keys(settings) is not None
    if domain == "dryrun":
        if settings.account.fills == "venue" and not has_keys:
            raise SetupRefusedError("account.api_key is missing; account.fills: venue sends orders with it")
        return
    if settings.connectors.execution_domain != "live":
        raise SetupRefusedError(
            "connectors.execution_domain: live is missing in the settings; live requires it"
        )
    if not has_keys:
        raise SetupRefusedError("account.key_file is missing; live requires it")
    if settings.risk.max_daily_loss is None:
        raise SetupRefusedError("risk.max_daily_loss is missing; live requires it, e.g. 50 USDT")
    name = account_name(settings)
    if typed_account != name:
        raise SetupRefusedError(f"live trades real money of account {name}: its name was not given")


def bollinger_params(settings: Settings) -> dict[str, Plain]:
    """Return the parameters of the shipped trader as a session's setup keeps them.

    Without a configured size it trades 0.010 BTC, and elsewhere about 500 in the quote currency.
    """
    trader = settings.trader
    params: dict[str, Plain] = {name: _plain(value) for name, value in trader.decision.model_dump().items()}
    params |= {"symbol": trader.symbol, "interval": trader.interval, "order_type": trader.order_type}
    sizes = {name: getattr(trader, name) for name in ("quantity", "notional", "size_pct")}
    given = {name: _plain(value) for name, value in sizes.items() if value is not None}
    if not given and not trader.symbol.startswith("BTC"):
        given = {"notional": _plain(_USUAL_NOTIONAL)}
    return params | given


def make_setup(
    settings: Settings,
    instruments: tuple[Instrument, ...],
    *,
    strategy: str,
    params: dict[str, Plain],
    has_venue: bool,
    world: str = "",
) -> SessionSetup:
    """Return everything beside the events that decides what the engine does."""
    limits = {name: getattr(settings.risk, name) for name in RiskLimits.__struct_fields__}
    return SessionSetup(
        strategy=strategy,
        params=params,
        instruments=instruments,
        limits=RiskLimits(**limits),
        world=world,
        asset=settings.account.asset,
        catastrophe_stop=settings.risk.catastrophe_stop if has_venue else None,
        needs_reconcile=has_venue,
        clock_limit_ms=settings.risk.clock_offset_ms,
    )


def make_start(
    setup: SessionSetup, clock: Clock, *, epoch: str, domain: Domain, run_id: str
) -> SessionStarted:
    """Return the first event of a session."""
    return SessionStarted(clock.now_ms(), epoch, domain, setup, clock.speed, __version__, run_id)


async def check_symbol(prelim: Prelim, settings: Settings, domain: Domain) -> Instrument:
    """Return the contract of the prelim's symbol, checked at the venue, the account too where it trades."""
    account = settings.account
    checked = await prelim.check_market_async(settings.risk.clock_offset_ms)
    if has_venue_fills(settings, domain):
        await prelim.check_account_async(
            checked,
            leverage=account.leverage,
            margin_mode=account.margin_mode,
            is_hedge=account.position_mode == "hedge",
            refuses_withdrawal=domain == "live",
        )
    return checked.instrument


def bars_before(strategy: StrategyPort) -> int:
    """Return how many closed bars a strategy wants to have seen: what it looks back on, or its warm-up."""
    return max(getattr(strategy, name, 0) for name in ("warmup", "lookback"))


def make_venue(
    settings: Settings,
    client: BinanceFuturesClient,
    domain: Domain,
    engine: Engine,
    symbols: tuple[str, ...],
) -> Venue:
    """Return the venue of a session whose orders leave the process, over the road the settings name.

    Orders that `engine` halted or wants cancelled stay here, even where the venue made them wait.
    """
    find_ban = engine.desk.find_ban
    if settings.account.client == "ccxt":
        return BrokerageVenue(_make_ccxt(settings, client), symbols, find_ban=find_ban)
    road = None
    if settings.account.order_road == "websocket":
        road = BinanceOrderSocket(client, find_socket_url(client.base_url))
    return BinanceFuturesVenue(client, symbols, road=road, domain=domain, find_ban=find_ban)


def _make_ccxt(settings: Settings, client: BinanceFuturesClient) -> FuturesCcxtBrokerageClient:
    """Return ccxt's client of the same account; margin and leverage were checked when the session opened."""
    api_key, secret = account_keys(settings) or ("", "")
    is_hedge = settings.account.position_mode == "hedge"
    url = settings.account.base_url
    return FuturesCcxtBrokerageClient(
        settings.account.venue,
        apiKey=api_key,
        secret=secret,
        margin_mode=None,
        hedge_mode=is_hedge or None,
        # ccxt's bucket would hold a stop back for seconds; the send policy obeys the venue's own limits.
        enableRateLimit=False,
        # ccxt knows the hosts of the venue and of its demo trading; of a venue it spells several.
        sandbox=url == DEMO_URL,
        base_url=None if url in {PRODUCTION_URL, DEMO_URL} else url,
        # The engine's journal owns the intents; what the client itself keeps is for this process.
        journal=memory_journal(client.random),
        clock=client.clock,
        random=client.random,
    )


def simulate_venue(
    engine: Engine,
    settings: Settings,
    instruments: tuple[Instrument, ...],
    seq: int,
    *,
    models: VenueModels | None,
    wallet: Decimal,
) -> SimulatedVenue:
    """Return a venue in memory that goes on where `engine` and its journal, `seq` records long, end.

    A fresh engine's venue holds `wallet`.
    """
    account = settings.account
    core = MatchingCore(
        {instrument.symbol: instrument for instrument in instruments},
        models=models,
        account=deepcopy(engine.account) if engine.state.has_account else None,
        first_wallet=wallet,
        margin_mode=account.margin_mode,
        leverage=account.leverage,
        # A number used before the restart would be taken for a repetition.
        first_order_id=seq + 1,
        first_trade_id=seq + 1,
    )
    venue = SimulatedVenue(core)
    venue.restore(engine.orders.open())
    return venue


async def keep_backups(settings: JournalSection, journal: Path, clock: Clock) -> None:
    """Copy the journal every `backup_every_s`, for as long as it is not cancelled."""
    folder = settings.backup_directory or settings.directory / "backups"
    while True:
        await clock.sleep(settings.backup_every_s)
        stamp = f"{datetime.fromtimestamp(clock.now_ms() / 1000, UTC):%Y%m%dT%H%M%S}"
        try:
            await asyncio.to_thread(back_up, journal, folder, stamp=stamp, keep=settings.backup_keep)
        except BrokerageError as error:
            _log.error("backup failed", reason=str(error), action="check the disk of the backups")


def feed_settings(settings: Settings, engine: Engine, symbols: tuple[str, ...]) -> FeedSettings:
    """Return what a session listens to: its symbols, from the newest bars the journal holds."""
    return FeedSettings(
        symbols=symbols,
        interval=settings.trader.interval,
        warmup=bars_before(engine.strategy) + _SPARE_BARS,
        last_open_ms=dict(engine.state.last_bar_ms),
        clock_limit_ms=settings.risk.clock_offset_ms,
    )


async def refill_candles(
    prelim: Prelim, collector: Collector, interval: str, begin_ms: int, end_ms: int
) -> None:
    """Fetch the candles that opened in [begin_ms, end_ms) and give them to a KlineCollector."""
    try:
        candles = await prelim.getData_OHLCV_async(interval, startTime=begin_ms, endTime=end_ms - 1)
    except BrokerageError as error:
        _log.warning("candles not refilled", reason=str(error), action="the collector keeps its gap")
        return
    if isinstance(collector, KlineCollector):
        collector.refill(candles)


def find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the fast event loop where it is installed, else None for the standard one."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _plain(value: Any) -> Plain:
    return str(value) if isinstance(value, Decimal) else value
