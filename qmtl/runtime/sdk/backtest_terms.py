"""What a backtest assumes of money, costs and fills; it comes from qmtl.yml and is printed with results."""

from decimal import Decimal
from typing import Any, Literal

import msgspec

from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.money import dump_decimal
from qmtl.engine.candle_path import CandlePath
from qmtl.engine.clock import SeededRandom
from qmtl.engine.margin import MarginMode
from qmtl.engine.matching import MatchingCore
from qmtl.engine.simulated_venue import FillMode, SimulatedVenue
from qmtl.engine.venue_models import (
    CandleShare,
    FixedLatency,
    LognormalLatency,
    NoSlippage,
    TickSlippage,
    UnlimitedLiquidity,
    VenueModels,
)

_PERCENT = Decimal(100)


class BacktestTerms(msgspec.Struct, frozen=True, kw_only=True):
    """First balance, fees as fractions of notional, slippage in ticks, latency in ms, and the fill model.

    `latency_sigma` above 0 draws delays around `latency_ms` by `seed`. Limits on the account's losses do not
    hold in a backtest: after one a person decides how to go on.
    """

    wallet: Decimal = Decimal(10_000)
    fee: Decimal = Decimal("0.0004")
    maker_fee: Decimal = Decimal("0.0002")
    slippage_ticks: int = 1
    latency_ms: float = 0.0
    latency_sigma: float = 0.0
    fill: FillMode = "next_open"
    path: CandlePath = CandlePath.OPEN_LOW_HIGH_CLOSE
    liquidity: Literal["unlimited", "candle_share"] = "unlimited"
    leverage: int = 1
    margin_mode: MarginMode = "isolated"
    asset: str = "USDT"
    seed: int = 7
    limits: RiskLimits = RiskLimits()

    def models(self) -> VenueModels:
        """Return the models of the simulated venue."""
        latency: FixedLatency | LognormalLatency = FixedLatency(self.latency_ms)
        if self.latency_sigma > 0 and self.latency_ms > 0:
            latency = LognormalLatency(SeededRandom(self.seed), self.latency_ms, self.latency_sigma)
        return VenueModels(
            fees=MakerTakerFeeModel(self.maker_fee, self.fee),
            slippage=TickSlippage(self.slippage_ticks) if self.slippage_ticks else NoSlippage(),
            latency=latency,
            liquidity=CandleShare() if self.liquidity == "candle_share" else UnlimitedLiquidity(),
            path=self.path,
        )

    def make_venue(self, instruments: dict[str, Instrument], wallet: Decimal) -> SimulatedVenue:
        """Return a fresh venue that holds `wallet`."""
        core = MatchingCore(
            instruments,
            models=self.models(),
            first_wallet=wallet,
            margin_mode=self.margin_mode,
            leverage=self.leverage,
        )
        return SimulatedVenue(core, fill=self.fill)

    def describe(self) -> str:
        """Say fee, slippage and what else is not as usual, in one line."""
        parts = [f"fee {dump_decimal(self.fee * _PERCENT)} %"]
        parts.append(f"slippage {self.slippage_ticks} tick{'' if self.slippage_ticks == 1 else 's'}")
        if self.latency_ms:
            parts.append(f"latency {self.latency_ms:g} ms")
        if self.fill == "close":
            parts.append("fills at the close that decided")
        if self.liquidity != "unlimited":
            parts.append("limited liquidity")
        if self.leverage != 1:
            parts.append(f"leverage {self.leverage}")
        return " · ".join(parts)

    def dump(self) -> dict[str, Any]:
        """Return plain data for a run's record."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        body["assumptions"] = list(self.models().describe())
        return body
