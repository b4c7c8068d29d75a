"""Which series a request or a stream means at a provider; never a guess."""

from collections.abc import Callable, Sequence
from typing import Any

from qmtl.runtime.sdk.fetch_plan import check_request
from qmtl.runtime.sdk.history import SeriesKey
from qmtl.runtime.sdk.history_frame import resolve_series
from qmtl.runtime.sdk.ohlcv_nodeid import (
    TIMEFRAME_SECONDS,
    NodeIdError,
    build,
    build_trades,
    validate,
)

_TIMEFRAMES = {length: name for name, length in TIMEFRAME_SECONDS.items()}


class SeriesBinding:
    """Resolves names against what the fetcher is configured for; everything before any I/O."""

    def __init__(self, fetcher: Any, default_node_id: str | None) -> None:
        self._config = getattr(fetcher, "config", None)
        self._serves: Callable[[str, int], object] | None = getattr(fetcher, "resolve", None)
        self._default = default_node_id
        self._bound: dict[tuple[str, int], str] = {}

    def bind(self, stream: Any) -> str:
        """Map a stream's own id to its series: `data_key`, the default, or the fetcher's only one."""
        node_id, interval = str(stream.node_id), int(stream.grid_s)
        series = getattr(stream, "data_key", None) or self._default or self._only_series(node_id, interval)
        if interval:
            self.resolve(series, interval)
        self._bound[node_id, interval] = series
        return series

    def resolve(self, node_id: str, interval: int) -> SeriesKey:
        """Return the series of an id, bound or canonical; NodeIdError says why there is none."""
        check_request(0, 0, interval)
        if not validate(node_id):
            node_id = self._bound.get((node_id, interval)) or self._bound.get((node_id, 0)) or node_id
        key = SeriesKey(node_id, interval)
        resolve_series(key)
        if self._serves is not None:
            self._serves(node_id, interval)
        return key

    def _only_series(self, node_id: str, interval: int) -> str:
        config: Any = self._config
        symbols: Sequence[str] = getattr(config, "symbols", None) or ()
        if config is None or len(symbols) != 1:
            count = f"{len(symbols)} series" if symbols else "no list of series"
            raise NodeIdError(node_id, f"the fetcher has {count}; name one with data_key")
        exchange, timeframe = config.exchange, getattr(config, "timeframe", None)
        if not hasattr(config, "timeframe"):
            return build_trades(exchange, symbols[0], escape=True)
        name = _TIMEFRAMES.get(interval) if interval else timeframe
        if name is None or timeframe not in {None, name}:
            raise NodeIdError(node_id, f"the fetcher has no series of {interval} s; name one with data_key")
        return build(exchange, symbols[0], name, escape=True)
