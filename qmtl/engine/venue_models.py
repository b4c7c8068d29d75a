"""What a simulated venue assumes: fees, slippage, latency, liquidity and candle path, each a named class."""

from decimal import ROUND_HALF_UP, Decimal
from math import cos, exp, log, pi, sqrt
from typing import Literal, Protocol

import msgspec

from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument
from qmtl.core.money import ceil_to_step, dump_decimal, floor_to_step
from qmtl.engine.candle_path import CandlePath
from qmtl.engine.ports import Random

_PERCENT = Decimal(100)


class SlippageModel(Protocol):
    """How far a taking order trades beyond the market price."""

    def slip(
        self, price: Decimal, *, is_buy: bool, quantity: Decimal, volume: float, instrument: Instrument
    ) -> Decimal:
        """Return the price paid for `quantity` base units where `volume` traded in the last update.

        The result is on the tick, rounded against the taker; the order's limit still bounds it.
        """

    def describe(self) -> str:
        """Say it in words for reports."""


class NoSlippage(msgspec.Struct, frozen=True):
    """Takers trade at the market price."""

    def slip(
        self, price: Decimal, *, is_buy: bool, quantity: Decimal, volume: float, instrument: Instrument
    ) -> Decimal:
        """See SlippageModel."""
        return price

    def describe(self) -> str:
        """See SlippageModel."""
        return "no slippage"


class TickSlippage(msgspec.Struct, frozen=True):
    """Takers trade a fixed number of ticks beyond the market price."""

    ticks: int = 1

    def slip(
        self, price: Decimal, *, is_buy: bool, quantity: Decimal, volume: float, instrument: Instrument
    ) -> Decimal:
        """See SlippageModel."""
        tick = instrument.tick_size
        moved = price + tick * self.ticks if is_buy else price - tick * self.ticks
        return _on_tick(moved, tick, is_buy=is_buy)

    def describe(self) -> str:
        """See SlippageModel."""
        return f"slippage {self.ticks} tick{'' if self.ticks == 1 else 's'}"


class FractionSlippage(msgspec.Struct, frozen=True):
    """Takers trade a constant fraction of the price beyond it."""

    fraction: Decimal

    def slip(
        self, price: Decimal, *, is_buy: bool, quantity: Decimal, volume: float, instrument: Instrument
    ) -> Decimal:
        """See SlippageModel."""
        moved = price + price * self.fraction if is_buy else price - price * self.fraction
        return _on_tick(moved, instrument.tick_size, is_buy=is_buy)

    def describe(self) -> str:
        """See SlippageModel."""
        return f"slippage {dump_decimal(self.fraction * _PERCENT)} %"


class VolumeShareSlippage(msgspec.Struct, frozen=True):
    """Price impact grows with the square of the order's share of the update's volume.

    Fraction of price = `impact` x share squared, the share bounded by `limit`; the form of zipline's
    VolumeShareSlippage. An update without volume counts as a share at the limit.
    """

    impact: float = 0.1
    limit: float = 0.25

    def slip(
        self, price: Decimal, *, is_buy: bool, quantity: Decimal, volume: float, instrument: Instrument
    ) -> Decimal:
        """See SlippageModel."""
        share = min(float(quantity) / volume, self.limit) if volume > 0 else self.limit
        fraction = Decimal(str(round(self.impact * share * share, 12)))
        moved = price + price * fraction if is_buy else price - price * fraction
        return _on_tick(moved, instrument.tick_size, is_buy=is_buy)

    def describe(self) -> str:
        """See SlippageModel."""
        return f"slippage {self.impact} x volume share squared (share at most {self.limit})"


def _on_tick(price: Decimal, tick: Decimal, *, is_buy: bool) -> Decimal:
    if is_buy:
        return ceil_to_step(price, tick)
    # A sale into a market near zero still trades at a positive price.
    return max(floor_to_step(price, tick), tick)


class LatencyModel(Protocol):
    """How long a command travels to the venue, in exchange milliseconds."""

    def draw_ms(self) -> float:
        """Return the delay of the next command, at least 0."""

    def describe(self) -> str:
        """Say it in words for reports."""


class FixedLatency(msgspec.Struct, frozen=True):
    """Every command takes the same time."""

    ms: float = 0.0

    def draw_ms(self) -> float:
        """See LatencyModel."""
        return self.ms

    def describe(self) -> str:
        """See LatencyModel."""
        return f"latency {self.ms:g} ms" if self.ms else "no latency"


class LognormalLatency(msgspec.Struct, frozen=True):
    """Delays drawn from a lognormal distribution with the given median and shape, by a seeded source."""

    random: Random
    median_ms: float = 20.0
    sigma: float = 0.5

    def draw_ms(self) -> float:
        """See LatencyModel."""
        # Box-Muller; 1 - u keeps the logarithm's argument above zero.
        radius = sqrt(-2.0 * log(max(1.0 - self.random.uniform(0.0, 1.0), 1e-300)))
        return self.median_ms * exp(self.sigma * radius * cos(2.0 * pi * self.random.uniform(0.0, 1.0)))

    def describe(self) -> str:
        """See LatencyModel."""
        return f"latency lognormal, median {self.median_ms:g} ms, sigma {self.sigma:g}"


class LiquidityModel(Protocol):
    """How much can trade on one market update."""

    def available(self, volume: float, lot: Decimal) -> Decimal | None:
        """Return the base units that `volume` of a whole candle leaves for one update; None: no bound."""

    def describe(self) -> str:
        """Say it in words for reports."""


class UnlimitedLiquidity(msgspec.Struct, frozen=True):
    """Any quantity trades at once."""

    def available(self, volume: float, lot: Decimal) -> Decimal | None:
        """See LiquidityModel."""
        return None

    def describe(self) -> str:
        """See LiquidityModel."""
        return "unlimited liquidity"


class CandleShare(msgspec.Struct, frozen=True):
    """Each of a candle's four updates can fill a quarter of the candle's volume times `share`."""

    share: float = 1.0

    def available(self, volume: float, lot: Decimal) -> Decimal | None:
        """See LiquidityModel."""
        return floor_to_step(Decimal(str(round(volume * self.share / 4, 9))), lot)

    def describe(self) -> str:
        """See LiquidityModel."""
        return f"liquidity {25 * self.share:g} % of the candle's volume per update"


class LiquidationFee(msgspec.Struct, frozen=True):
    """Clearance fee on the notional of a liquidated position, bounded by the margin that is left."""

    rate: Decimal = Decimal("0.0125")

    def fee(self, value: Decimal, left: Decimal) -> Decimal:
        """Return the fee on notional `value` when `left` of the margin remains after the loss."""
        fee = (value * self.rate).quantize(Decimal("1E-8"), ROUND_HALF_UP)
        return max(min(fee, left), Decimal(0))

    def describe(self) -> str:
        """Say it in words for reports."""
        return f"liquidation fee {dump_decimal(self.rate * _PERCENT)} %"


LimitFill = Literal["touch", "through"]


class VenueModels(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one simulated venue assumes.

    `limit_fill`: a resting limit fills when the price reaches it (touch) or only when it trades
    beyond it, as if the whole queue stood in front (through). `stops_first` turns a bar's declared path
    around when a resting stop would be hit inside the bar, so that stop and target in one bar mean stop.
    """

    fees: MakerTakerFeeModel = MakerTakerFeeModel()
    slippage: SlippageModel = NoSlippage()
    latency: LatencyModel = FixedLatency()
    liquidity: LiquidityModel = UnlimitedLiquidity()
    path: CandlePath = CandlePath.OPEN_LOW_HIGH_CLOSE
    stops_first: bool = True
    limit_fill: LimitFill = "touch"
    liquidation_fee: LiquidationFee = LiquidationFee()

    def describe(self) -> tuple[str, ...]:
        """Return one sentence per assumption, for reports."""
        fees = self.fees
        path = self.path.describe() + (", stops first" if self.stops_first else "")
        maker, taker = dump_decimal(fees.maker * _PERCENT), dump_decimal(fees.taker * _PERCENT)
        return (
            f"fee maker {maker} %, taker {taker} %",
            self.slippage.describe(),
            self.latency.describe(),
            self.liquidity.describe(),
            path,
            f"resting limits fill on {self.limit_fill}",
            self.liquidation_fee.describe(),
        )
