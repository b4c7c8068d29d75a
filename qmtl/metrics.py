"""Every Prometheus metric, declared once; dashboards and alert rules are in operations/monitoring/."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from qmtl.core.event import ErrorRecorded, Event, IntentRefused

_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_NETWORK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TRADING_STATES = ("ACTIVE", "REDUCING", "HALTED")
_ORDER_STATES = ("submitted", "accepted", "partially_filled", "pending_cancel", "unknown")


class TraderMetrics:
    """The metrics of one trader, in a registry of their own; money is in the account's asset.

    Counters and histograms are fed where things happen; gauges are set from the trader's status at a scrape.
    """

    def __init__(self) -> None:
        """Declare them all, at zero."""
        self.registry = CollectorRegistry()
        self._totals: dict[str, int] = {}
        self._declare_timing()
        self._declare_orders()
        self._declare_money()
        self._declare_health()
        ProcessCollector(registry=self.registry)

    def _declare_timing(self) -> None:
        r = self.registry
        self.loop_lag = Histogram(
            "qmtl_loop_lag_seconds", "How late the event loop ran its timer.", registry=r, buckets=_FAST
        )
        self.loop_age = Gauge("qmtl_loop_age_seconds", "Time since the engine loop last turned.", registry=r)
        self.decision_latency = Histogram(
            "qmtl_decision_latency_seconds",
            "From a market message read off the socket to the engine's commands.",
            registry=r,
            buckets=_FAST,
        )
        self.order_latency = Histogram(
            "qmtl_order_latency_seconds",
            "From a command to the venue's answer.",
            registry=r,
            buckets=_NETWORK,
        )
        self.journal_write = Histogram(
            "qmtl_journal_write_seconds", "One group commit of the journal.", registry=r, buckets=_NETWORK
        )

    def _declare_orders(self) -> None:
        r = self.registry
        self.orders = Gauge("qmtl_orders", "Orders that have not ended, by state.", ["state"], registry=r)
        self.unsettled = Gauge("qmtl_unsettled_orders", "Orders whose outcome is not known.", registry=r)
        self.unsettled_age = Gauge(
            "qmtl_unsettled_order_age_seconds", "Age of the oldest order without a known outcome.", registry=r
        )
        self.refusals = Counter(
            "qmtl_risk_refusals_total",
            "Intents refused before they were sent, by code.",
            ["code"],
            registry=r,
        )
        self.errors = Counter(
            "qmtl_errors_total", "What must not happen and did, by code.", ["code"], registry=r
        )
        # A counter that is born at 1 never increases: what an alert looks at starts at 0.
        self.errors.labels("unprotected_position")
        self.parity_breaks = Counter(
            "qmtl_parity_breaks_total",
            "Decisions that replay of the recorded inputs does not repeat, found by qmtl parity.",
            registry=r,
        )

    def _declare_money(self) -> None:
        r = self.registry
        self.position = Gauge("qmtl_position", "Signed base units held.", ["symbol", "side"], registry=r)
        self.unprotected = Gauge(
            "qmtl_unprotected_position_seconds",
            "How long a position has been without its stop at the venue.",
            ["symbol"],
            registry=r,
        )
        self.drift = Gauge(
            "qmtl_position_drift_seconds",
            "How long the venue's position has differed from the journal's.",
            ["symbol"],
            registry=r,
        )
        self.liquidation = Gauge(
            "qmtl_liquidation_distance_ratio",
            "Distance of the mark from liquidation as a share of the mark; absent when flat.",
            ["symbol"],
            registry=r,
        )
        self.exposure = Gauge("qmtl_exposure", "Sum of |position| x mark.", registry=r)
        self.equity = Gauge("qmtl_equity", "Wallet plus open profit.", registry=r)
        self.day_pnl = Gauge("qmtl_day_pnl", "Equity now less equity at 00:00 UTC.", registry=r)
        self.day_loss_limit = Gauge("qmtl_day_loss_limit", "risk.max_daily_loss; 0 without one.", registry=r)
        self.drawdown = Gauge(
            "qmtl_drawdown_ratio", "Fall from the equity peak as a share of it.", registry=r
        )

    def _declare_health(self) -> None:
        r = self.registry
        self.ready = Gauge("qmtl_ready", "1 when reconciled, durable, fresh and settled.", registry=r)
        self.state = Gauge("qmtl_trading_state", "1 for the state that holds.", ["state"], registry=r)
        self.feed_age = Gauge(
            "qmtl_feed_age_seconds", "Real time since the last message of a stream.", ["stream"], registry=r
        )
        self.feed_fresh = Gauge("qmtl_feed_fresh", "1 while a stream is fresh.", ["stream"], registry=r)
        self.reconnects = Counter(
            "qmtl_reconnects_total", "Connections that were lost and made again.", ["stream"], registry=r
        )
        self.conflated = Counter(
            "qmtl_conflated_prices_total",
            "Prices replaced by a newer one before the engine saw them.",
            registry=r,
        )
        self.weight = Gauge("qmtl_weight_used_ratio", "Share of the venue's request weight used.", registry=r)
        self.clock_offset = Gauge(
            "qmtl_clock_offset_seconds", "Our clock less the venue's, in real time.", registry=r
        )
        self.alerts = Counter(
            "qmtl_alerts_total", "Alerts the engine raised itself, by code.", ["code"], registry=r
        )
        self.disk_free = Gauge("qmtl_disk_free_bytes", "Free space where the journal lies.", registry=r)
        self.backup_age = Gauge("qmtl_backup_age_seconds", "Age of the newest backup.", registry=r)

    # --- fed where things happen: engine.live.Observer, and a listener of the journal's tap ------------

    def on_decided(self, real_ms: float) -> None:
        """See engine.live.Observer."""
        self.decision_latency.observe(real_ms / 1000)

    def on_committed(self, real_ms: float) -> None:
        """See engine.live.Observer."""
        self.journal_write.observe(real_ms / 1000)

    def on_answered(self, real_ms: float) -> None:
        """See engine.live.Observer."""
        self.order_latency.observe(real_ms / 1000)

    def on_alert(self, code: str, detail: str) -> None:
        """See engine.live.Observer."""
        self.alerts.labels(code).inc()

    def on_event(self, event: Event) -> None:
        """Count what the journal was given."""
        if isinstance(event, IntentRefused):
            self.refusals.labels(event.code).inc()
        elif isinstance(event, ErrorRecorded):
            self.errors.labels(event.code).inc()

    # --- set from the status ---------------------------------------------------------------------------

    def show(self, status: Mapping[str, Any]) -> None:
        """Set the gauges from a trader's status; what the status does not know stays as it was."""
        for gauge, key in (
            (self.loop_age, "loop_age_s"),
            (self.unsettled, "unsettled"),
            (self.unsettled_age, "unsettled_age_s"),
            (self.exposure, "exposure"),
            (self.equity, "equity"),
            (self.day_pnl, "day_pnl"),
            (self.drawdown, "drawdown"),
            (self.weight, "weight_share"),
            (self.disk_free, "disk_free_bytes"),
            (self.backup_age, "backup_age_s"),
        ):
            if (value := status.get(key)) is not None:
                gauge.set(float(value))
        if (offset := status.get("clock_offset_ms")) is not None:
            self.clock_offset.set(float(offset) / 1000)
        limit = dict(status.get("limits") or {}).get("max_daily_loss")
        self.day_loss_limit.set(float(limit or 0))
        self.ready.set(bool(status.get("is_ready")))
        for state in _TRADING_STATES:
            self.state.labels(state).set(status.get("state") == state)
        self._show_orders(status)
        self._show_positions(status)
        for stream, feed in dict(status.get("feeds") or {}).items():
            self.feed_fresh.labels(stream).set(bool(feed.get("is_fresh")))
        for stream, age_s in dict(status.get("stream_ages_s") or {}).items():
            self.feed_age.labels(stream).set(float(age_s))
        for stream, total in dict(status.get("reconnects") or {}).items():
            self.reconnects.labels(stream).inc(self._grown(f"reconnects {stream}", int(total)))
        self.conflated.inc(self._grown("conflated", int(status.get("conflated") or 0)))
        self.parity_breaks.inc(self._grown("parity_breaks", int(status.get("parity_breaks") or 0)))

    def _grown(self, name: str, total: int) -> int:
        """Return by how much a running total grew since it was last shown."""
        before, self._totals[name] = self._totals.get(name, 0), total
        return max(0, total - before)

    def _show_orders(self, status: Mapping[str, Any]) -> None:
        held = [str(order.get("status")) for order in status.get("orders") or ()]
        for state in _ORDER_STATES:
            self.orders.labels(state).set(held.count(state))

    def _show_positions(self, status: Mapping[str, Any]) -> None:
        self.position.clear()
        self.liquidation.clear()
        self.drift.clear()
        self.unprotected.clear()
        for held in status.get("positions") or ():
            symbol = str(held["symbol"])
            self.position.labels(symbol, str(held.get("side") or "BOTH")).set(float(held["quantity"]))
            self.unprotected.labels(symbol).set(float(held.get("unprotected_s") or 0))
            self.drift.labels(symbol).set(float(held.get("drift_s") or 0))
            if (distance := held.get("liquidation_distance")) is not None:
                self.liquidation.labels(symbol).set(float(distance))

    def render(self) -> bytes:
        """Return the exposition text of every metric."""
        return generate_latest(self.registry)


_SEAMLESS_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    240.0,
    300.0,
    600.0,
)
_SERIES = ("node_id", "interval")


class SeamlessMetrics:
    """The metrics of history: providers, fetchers, limiters, stores; one object and registry per process.

    Take `SEAMLESS`; an object of one's own is for tests. `series` gives the labels of a series: after
    `max_series` node ids further ones are counted as `other`.
    """

    def __init__(self, max_series: int = 500) -> None:
        """Declare them all."""
        self.registry = CollectorRegistry()
        self.max_series = max_series
        self._known: set[str] = set()
        self._declare_waits()
        self._declare_counts()
        self._declare_gauges()

    def _declare_waits(self) -> None:
        r, b = self.registry, _SEAMLESS_BUCKETS
        self.sla_deadline = Histogram(
            "seamless_sla_deadline_seconds",
            "Time a fetch spent in a phase of its SLA.",
            ["node_id", "phase"],
            registry=r,
            buckets=b,
        )
        self.gap_repair_latency = Histogram(
            "gap_repair_latency_seconds",
            "From noticing a gap to having it stored.",
            _SERIES,
            registry=r,
            buckets=b,
        )
        self.artifact_publish_latency = Histogram(
            "artifact_publish_latency_seconds", "Publishing one artifact.", _SERIES, registry=r, buckets=b
        )
        self.limiter_wait = Histogram(
            "seamless_rl_wait_seconds", "Waiting for a request slot.", ["limiter"], registry=r, buckets=b
        )

    def _declare_counts(self) -> None:
        def count(name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
            return Counter(name, meaning, labels, registry=self.registry)

        self.conformance_flag = count(
            "seamless_conformance_flag_total", "Rows flagged, by kind.", (*_SERIES, "flag_type")
        )
        self.conformance_warning = count(
            "seamless_conformance_warning_total", "Warnings of conformance reports.", _SERIES
        )
        self.backfill_retry = count("backfill_retry_total", "Requests sent again.", _SERIES)
        self.backfill_failure = count("backfill_failure_total", "Ranges that could not be filled.", _SERIES)
        self.cache_hit = count("seamless_cache_hit_total", "Fetches that found rows in the cache.", _SERIES)
        self.cache_miss = count("seamless_cache_miss_total", "Fetches that did not.", _SERIES)
        self.partial_fill_returns = count(
            "partial_fill_returns_total", "Incomplete answers, by reason.", (*_SERIES, "reason")
        )
        self.domain_gate_holds = count(
            "domain_gate_holds_total", "Answers that no node may see, by reason.", (*_SERIES, "reason")
        )
        self.exchange_requests = count(
            "seamless_exchange_requests_total", "Requests for history, by outcome.", ("exchange", "outcome")
        )
        self.limiter_dropped = count(
            "seamless_rl_dropped_total", "Waits for a slot that were given up.", ("limiter", "reason")
        )
        self.live_reconnects = count(
            "seamless_live_reconnects_total", "Live feeds connected again.", ("exchange",)
        )
        self.artifact_bytes = count("artifact_bytes_written_total", "Bytes of artifacts.", ("node_id",))

    def _declare_gauges(self) -> None:
        def gauge(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, meaning, labels, registry=self.registry)

        self.backfill_completion = gauge(
            "backfill_completion_ratio", "Share of a job's cells that are stored or empty.", _SERIES
        )
        self.backfill_jobs = gauge("backfill_jobs_in_progress", "Jobs that are running.", _SERIES)
        self.backfill_last = gauge(
            "backfill_last_timestamp", "Newest bar a backfill stored, in epoch seconds.", _SERIES
        )
        self.coverage_ratio = gauge("coverage_ratio", "Coverage of the last answer.", _SERIES)
        self.live_staleness = gauge(
            "live_staleness_seconds", "Age of the newest covered cell at the last answer.", _SERIES
        )
        self.limiter_tokens = gauge("seamless_rl_tokens_available", "Tokens in a bucket.", ("limiter",))
        self.limiter_degraded = gauge(
            "seamless_rl_degraded", "1 while the shared bucket is out of reach.", ("limiter",)
        )
        self.coordinator_up = gauge("seamless_coordinator_up", "1 while the coordinator answers.")
        self.coordinator_up.set(float("nan"))  # none was asked: neither up nor down
        self.cache_bytes = gauge("seamless_cache_resident_bytes", "Bytes of cached rows.")

    def series(self, node_id: str, interval: int) -> tuple[str, str]:
        """Return the labels of a series."""
        return self.node(node_id), str(interval)

    def node(self, node_id: str) -> str:
        """Return the label of a node id: itself, or `other` once there are too many."""
        if node_id in self._known:
            return node_id
        if len(self._known) >= self.max_series:
            return "other"
        self._known.add(node_id)
        return node_id

    def render(self) -> bytes:
        """Return the exposition text of every metric."""
        return generate_latest(self.registry)


SEAMLESS = SeamlessMetrics()
"""The metrics of this process."""
