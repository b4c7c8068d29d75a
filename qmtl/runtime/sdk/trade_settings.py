"""What qmtl.yml says about trading a strategy, as the plan and the terms a run takes."""

from collections.abc import Sequence

from qmtl.core.instrument import parse_symbol
from qmtl.core.limits import RiskLimits
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.strategy import Strategy
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.settings import Settings


def find_plan(settings: Settings, strategy: Strategy, symbols: Sequence[str] = ()) -> TradePlan:
    """Return the plan: `symbols` where given, else the strategy's own, else `trader.symbol`.

    StrategyError names a symbol or an interval of the strategy that is none.
    """
    trader = settings.trader
    try:
        markets = [parse_symbol(symbol) for symbol in symbols or strategy.symbols or (trader.symbol,)]
        plan = TradePlan(
            symbols=",".join(dict.fromkeys(markets)),
            interval=strategy.interval,
            quantity=trader.quantity,
            notional=trader.notional,
            size_pct=trader.size_pct,
            volatility_target=trader.volatility_target,
            volatility_window=trader.volatility_window,
        )
        length = plan.interval_ms
    except ValueError as error:
        raise StrategyError(f"{type(strategy).__name__}: {error}") from None
    if not length or strategy.decide_on not in {"close", "tick"}:
        raise StrategyError(
            f'{type(strategy).__name__}: decide_on: expected "close" or "tick", got {strategy.decide_on!r}'
        )
    return plan


def find_terms(settings: Settings) -> BacktestTerms:
    """Return the terms of a backtest."""
    section, account = settings.backtest, settings.account
    limits = {name: getattr(settings.risk, name) for name in RiskLimits.__struct_fields__}
    return BacktestTerms(
        wallet=section.wallet,
        fee=section.fee,
        maker_fee=section.maker_fee,
        slippage_ticks=section.slippage_ticks,
        latency_ms=section.latency_ms,
        latency_sigma=section.latency_sigma,
        fill=section.fill,
        liquidity=section.liquidity,
        leverage=account.leverage,
        margin_mode=account.margin_mode,
        asset=account.asset,
        seed=section.seed,
        limits=RiskLimits(**limits),
    )
