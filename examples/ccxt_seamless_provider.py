import asyncio

from qmtl.runtime.io import CcxtBackfillConfig, CcxtOHLCVFetcher
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
from qmtl.runtime.sdk.seamless_data_provider import DataAvailabilityStrategy

async def main() -> None:
    backfill = CcxtBackfillConfig(
        exchange="binance",
        symbols=["BTC/USDT"],
        timeframe="1m",
        batch_limit=500,
        earliest_ts=1_577_836_800,
    )
    fetcher = CcxtOHLCVFetcher(backfill)

    provider = EnhancedQuestDBProvider(
        dsn="postgresql://localhost:8812/qmtl",
        table="ohlcv",
        fetcher=fetcher,
        strategy=DataAvailabilityStrategy.SEAMLESS,
    )

    frame = await provider.fetch(
        start=1_706_745_600,
        end=1_706_832_000,
        node_id="ohlcv:binance:BTC/USDT:1m",
        interval=60,
    )
    print(frame.head())

if __name__ == "__main__":
    asyncio.run(main())
