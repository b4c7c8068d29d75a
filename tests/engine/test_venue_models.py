"""The small model classes of a simulated venue."""

import random
from decimal import Decimal as D
from statistics import median

import pytest

from qmtl.engine.venue_models import (
    CandleShare,
    FixedLatency,
    FractionSlippage,
    LiquidationFee,
    LognormalLatency,
    NoSlippage,
    SlippageModel,
    TickSlippage,
    VolumeShareSlippage,
)
from tests.engine.market import BTC


class Seeded:
    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)

    def uniform(self, a: float, b: float) -> float:
        return self._source.uniform(a, b)

    def randbytes(self, n: int) -> bytes:
        return self._source.randbytes(n)


@pytest.mark.parametrize(
    ("model", "buy", "sell"),
    [
        (NoSlippage(), "100", "100"),
        (TickSlippage(2), "100.2", "99.8"),
        (FractionSlippage(D("0.0015")), "100.2", "99.8"),  # 100.15 and 99.85, against the taker
        (VolumeShareSlippage(0.1, 0.25), "100.4", "99.6"),  # share 0.2: 0.1 x 0.04 = 0.4 %
    ],
)
def test_slippage_goes_against_the_taker_and_stays_on_the_tick(
    model: SlippageModel, buy: str, sell: str
) -> None:
    def slip(is_buy: bool) -> D:
        return model.slip(D(100), is_buy=is_buy, quantity=D(2), volume=10.0, instrument=BTC)

    assert (slip(True), slip(False)) == (D(buy), D(sell))
    assert model.describe()


def test_a_sale_never_slips_to_zero() -> None:
    price = FractionSlippage(D(1)).slip(D(1), is_buy=False, quantity=D(1), volume=1.0, instrument=BTC)
    assert price == BTC.tick_size


def test_an_update_without_volume_slips_at_the_limit() -> None:
    model = VolumeShareSlippage(0.1, 0.5)
    assert model.slip(D(100), is_buy=True, quantity=D(1), volume=0.0, instrument=BTC) == D("102.5")


def test_lognormal_latency_repeats_with_its_seed_and_has_its_median() -> None:
    draws = [
        [LognormalLatency(source, 20.0, 0.5).draw_ms() for _ in range(999)]
        for source in (Seeded(1), Seeded(1))
    ]
    assert draws[0] == draws[1]
    assert min(draws[0]) > 0
    assert median(draws[0]) == pytest.approx(20.0, rel=0.1)
    assert FixedLatency(3).draw_ms() == 3


def test_candle_share_is_a_quarter_in_whole_lots() -> None:
    assert CandleShare().available(10.0, D("0.001")) == D("2.5")
    assert CandleShare(0.5).available(0.1, D("0.01")) == D("0.01")
    assert CandleShare().describe() == "liquidity 25 % of the candle's volume per update"


def test_the_liquidation_fee_takes_no_more_than_is_left() -> None:
    fee = LiquidationFee(D("0.0125"))
    assert fee.fee(D(1_000), D(100)) == D("12.5")
    assert fee.fee(D(1_000), D(3)) == D(3)
    assert fee.fee(D(1_000), D(-3)) == 0
