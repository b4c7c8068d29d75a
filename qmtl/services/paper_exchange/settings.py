"""What a paper exchange is made of: markets, accounts, limits, faults."""

from decimal import Decimal
from pathlib import Path

import msgspec

from qmtl.core.fees import MakerTakerFeeModel
from qmtl.engine.candle_path import CandlePath
from qmtl.engine.venue_models import CandleShare, LiquidityModel

HOUR_MS = 3_600_000


class MarketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One market and where its candles come from.

    `candles` is a file of recorded 1m candles; without it the market is synthetic: seeded, endless,
    starting at `price`. `funding` is a file of recorded 8h funding rates. `history` is how many
    candles precede the start: a synthetic market makes them, a recorded one skips to the candle after
    them when `is_shifted` moves its times so that `ahead` candles lie after now. `min_notional` replaces
    the venue's smallest order value.
    """

    symbol: str = "BTCUSDT"
    candles: Path | None = None
    funding: Path | None = None
    seed: int = 1
    price: float = 60_000.0
    history: int = 3_000
    is_shifted: bool = False
    ahead: int = 1_440
    min_notional: Decimal | None = None


class WeightLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Request weights and order counts per window of real time; `ban_after` refusals turn 429 into 418."""

    weight_1m: int = 2_400
    orders_10s: int = 300
    orders_1m: int = 1_200
    ban_after: int = 10
    ban_s: int = 120


class PaperExchangeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a `PaperExchange` needs to know.

    `accounts` maps API key to secret; with `is_open` an unknown key is taken at first use with the
    secret equal to the key. `is_manual` publishes the next update only when `step` is called.
    `countdown_spares_algo` chooses whether countdownCancelAll leaves conditional orders at rest.
    """

    host: str = "127.0.0.1"
    port: int = 0
    markets: tuple[MarketSettings, ...] = (MarketSettings(),)
    accounts: dict[str, str] = msgspec.field(default_factory=lambda: {"paper": "paper"})
    is_open: bool = False
    balance: Decimal = Decimal(10_000)
    leverage: int = 20
    fees: MakerTakerFeeModel = MakerTakerFeeModel()
    limits: WeightLimits = WeightLimits()
    liquidity: LiquidityModel = CandleShare()
    candle_path: CandlePath = CandlePath.OPEN_LOW_HIGH_CLOSE
    is_manual: bool = False
    seed: int = 1
    listen_key_ms: int = HOUR_MS
    ping_s: float = 180.0
    countdown_spares_algo: bool = True
    can_withdraw: bool = False
