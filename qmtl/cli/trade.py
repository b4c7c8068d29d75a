"""`qmtl trade`: a strategy against a real venue; dry-run unless every consent to live is given."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from qmtl.cli.invocation import BadInputError, Invocation, mint_run_id, refusing
from qmtl.cli.paper_exchange import parse_seconds, start_logging
from qmtl.cli.places import Places
from qmtl.cli.strategy_options import ParamOption, ParamsFile, open_strategy, size_option

if TYPE_CHECKING:
    from qmtl.engine.ports import Clock
    from qmtl.runtime.sdk.lowered import Plain
    from qmtl.settings import Settings

Domain = Literal["dryrun", "live"]
_ASK_CLOCK_S = 2.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(trade)


def trade(
    ctx: typer.Context,
    strategy: Annotated[
        str | None,
        typer.Argument(help="file.py, file.py:Class or module:Class; default the shipped Bollinger trader."),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Real money; needs every other consent too.")] = False,
    account: Annotated[str | None, typer.Option("--account", help="The account's name, typed.")] = None,
    unrehearsed: Annotated[
        bool, typer.Option("--unrehearsed", help="Go live without a rehearsal certificate; journaled.")
    ] = False,
    symbol: Annotated[
        list[str] | None,
        typer.Option("--symbol", help="BTCUSDT, BTC/USDT, BTC/USDT:USDT; may be given again."),
    ] = None,
    param: ParamOption = None,
    params: ParamsFile = None,
    size: Annotated[str | None, typer.Option("--size", help="0.01, 500 USDT or 1%.")] = None,
    seconds: Annotated[str | None, typer.Option("--for", help="Stop after so many real seconds.")] = None,
) -> None:
    """Trade live data: domain dryrun simulates the fills, --live sends the orders."""
    from qmtl.trader.session import BOLLINGER, check_consents

    invocation: Invocation = ctx.obj
    symbols = tuple(symbol or ())
    first = symbols[0] if symbols else None
    loaded = invocation.load({"--symbol": ("trader.symbol", first), **size_option(size)})
    settings = loaded.settings
    for_s = parse_seconds(seconds)
    domain: Domain = "live" if live else "dryrun"
    where = loaded.file.name if loaded.file is not None else "qmtl.yml"
    name = Places.of(settings).account
    with _named(where):
        check_consents(settings, domain, name)
    if not live and settings.connectors.execution_domain == "live":
        invocation.note("dryrun: connectors.execution_domain is live, but --live was not given")
    if live:
        if not unrehearsed:
            raise BadInputError("live needs a rehearsal certificate; --unrehearsed goes without, journaled")
        _require_name(settings, name, account)
    if strategy is None:
        if param or params or len(symbols) > 1:
            raise BadInputError("--param, --params and several symbols need a strategy")
        chosen = Traded(BOLLINGER, None, (settings.trader.symbol,), settings.trader.interval)
    else:
        options = Options(symbols, tuple(param or ()), params)
        chosen = _find_traded(settings, strategy, options)
    settings = chosen.apply(settings)
    run_id = mint_run_id() + ("-unrehearsed" if live else "")
    start_logging(invocation, name, _secrets(settings), has_view=True)

    from qmtl.cli.running import run_loop

    run_loop(_trade(invocation, settings, Plan(domain, name, chosen, run_id, for_s)))


class Options(NamedTuple):
    """The options that say how a strategy is traded."""

    symbols: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    params_file: Path | None = None


class Traded(NamedTuple):
    """The strategy as a session names it, and its market; `params` None are those of the settings."""

    strategy: str
    params: "dict[str, Plain] | None"
    symbols: tuple[str, ...]
    interval: str

    def apply(self, settings: "Settings") -> "Settings":
        """Return the settings with the strategy's own market."""
        change = {"symbol": self.symbols[0], "interval": self.interval}
        return settings.model_copy(update={"trader": settings.trader.model_copy(update=change)})


@dataclass(frozen=True)
class Plan:
    """What is to be traded, once everything about it was checked."""

    domain: Domain
    account: str
    traded: Traded
    run_id: str
    seconds: float | None


async def _trade(invocation: Invocation, settings: "Settings", plan: Plan) -> None:
    from qmtl.cli.live_view import LiveView
    from qmtl.cli.running import LoggedMetrics, Running
    from qmtl.engine.journal import JournalError
    from qmtl.trader.rt_trader import RealTimeTrader
    from qmtl.trader.warmup import StoredWarmup

    metrics = LoggedMetrics()
    clock = await find_clock(settings.account.base_url)
    trader = RealTimeTrader(
        settings,
        domain=plan.domain,
        typed_account=plan.account,
        strategy=plan.traded.strategy,
        params=plan.traded.params,
        symbols=plan.traded.symbols,
        clock=clock,
        observer=metrics,
        run_id=plan.run_id,
        history=StoredWarmup(settings, clock).bars,
    )
    running = Running(invocation, trader, Places.of(settings), metrics)
    with refusing(JournalError):
        await running.open()
    word = plan.domain if plan.domain == "dryrun" else "LIVE"
    banner = f"{word} {plan.account} · {settings.account.base_url} · {', '.join(plan.traded.symbols)}"
    if settings.risk.max_daily_loss is not None:
        banner += f" · max loss {settings.risk.max_daily_loss} {settings.account.asset}/day"
    quiet = invocation.is_json or invocation.is_quiet
    view = None if quiet else LiveView(invocation.console(), banner, word, tells_decisions=True)
    await running.run(plan.seconds, view)
    invocation.answer(running.summary(), running.last_line())


async def find_clock(base_url: str) -> "Clock":
    """Return the clock to trade by: a paper exchange on this machine may run faster than the world.

    Every other venue runs on the machine's time.
    """
    import aiohttp

    from qmtl.engine.clock import ScaledClock, SystemClock
    from qmtl.settings import is_loopback

    if not is_loopback(base_url):
        return SystemClock()
    timeout = aiohttp.ClientTimeout(total=_ASK_CLOCK_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base_url}/paper/state", params={"key": ""}) as answer,
        ):
            state = await answer.json() if answer.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError, ValueError):
        # Who does not answer, or answers something else, is judged by the trader's own checks.
        return SystemClock()
    speed = float(state.get("speed", 1))
    return SystemClock() if speed == 1 else ScaledClock(int(state["serverTime"]), speed)


def _require_name(settings: "Settings", name: str, account: str | None) -> None:
    """Have the account's name typed, now or with --account."""
    if account is None and sys.stdin.isatty():
        limit = f"{settings.risk.max_daily_loss} {settings.account.asset}/day"
        account = str(
            typer.prompt(
                f"LIVE {name} · max loss {limit} · type the account name", default="", show_default=False
            )
        )
    if not account:
        raise BadInputError(f"live needs the account name typed, or --account {name}")
    if account != name:
        raise BadInputError(f"live would trade account {name!r}; the name given is {account!r}")


def _find_traded(settings: "Settings", reference: str, options: Options) -> Traded:
    """Load the strategy and its parameters, so that what is wrong with it is said before anything starts."""
    from qmtl.runtime.sdk.lowered import LOWERED, dump_lowered
    from qmtl.runtime.sdk.param import StrategyError
    from qmtl.runtime.sdk.strategy_file import keep_copy, naming_faults
    from qmtl.runtime.sdk.trade_settings import find_plan

    try:
        source, strategy = open_strategy(reference, options.params, options.params_file)
    except StrategyError:
        if options.params or options.params_file or not _is_port(reference):
            raise
        return Traded(reference, {}, (settings.trader.symbol,), settings.trader.interval)
    with naming_faults(source):
        plan = find_plan(settings, strategy, options.symbols)
        kept = settings.journal.directory / "strategies"
        params = dump_lowered(source, strategy, plan, kept)
    keep_copy(source, kept)
    return Traded(LOWERED, params, plan.markets, plan.interval)


def _is_port(reference: str) -> bool:
    """Tell whether `module:Class` is a strategy port of its own, made by `from_params`."""
    from qmtl.core.event import SessionSetup
    from qmtl.engine.loader import StrategyNotFoundError, load_strategy

    if reference.partition(":")[0].endswith(".py") or ":" not in reference:
        return False
    with refusing(StrategyNotFoundError):
        load_strategy(SessionSetup(strategy=reference))
    return True


def _secrets(settings: "Settings") -> tuple[str, ...]:
    from qmtl.config import account_keys

    return account_keys(settings) or ()


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Name the file in front of a refusal that begins with one of its keys."""
    from qmtl.settings import Settings
    from qmtl.trader.prelim import SetupRefusedError

    try:
        yield
    except SetupRefusedError as error:
        is_key = str(error).partition(".")[0] in Settings.model_fields
        raise BadInputError(f"{where}: {error}" if is_key else str(error)) from None
