import json
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from qmtl.core.event import ErrorRecorded, IntentRefused
from qmtl.core.order import OrderIntent, Side
from qmtl.metrics import TraderMetrics

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "operations" / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule for rule in RULES}
REQUIRED = (
    "TraderDown NotReadyWithPosition UnprotectedPosition PositionDrift UnsettledOrder FeedStale ClockOffset "
    "DailyLoss LiquidationNear WeightHigh JournalSlow DiskLow BackupOld ParityBroken DeadMan"
)
HEALTHY: dict[str, Any] = {
    "state": "ACTIVE",
    "is_ready": True,
    "loop_age_s": 0.05,
    "equity": "10000",
    "exposure": "600",
    "day_pnl": "-10",
    "drawdown": 0.01,
    "unsettled": 0,
    "unsettled_age_s": 0,
    "weight_share": 0.2,
    "clock_offset_ms": 12,
    "disk_free_bytes": 50_000_000_000,
    "backup_age_s": 600,
    "limits": {"max_daily_loss": "50"},
    "orders": [{"status": "accepted"}],
    "feeds": {"btcusdt@kline_1m": {"is_fresh": True}},
    "stream_ages_s": {"btcusdt@kline_1m": 0.4},
    "reconnects": {"market": 0, "user": 0},
    "conflated": 0,
    "positions": [
        {
            "symbol": "BTCUSDT",
            "side": "BOTH",
            "quantity": "0.010",
            "unprotected_s": 0,
            "drift_s": 0,
            "liquidation_distance": 0.9,
        }
    ],
}


def ill(**changes: Any) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(json.dumps(HEALTHY))
    position = {key: changes.pop(key) for key in list(changes) if key in status["positions"][0]}
    return status | changes | {"positions": [status["positions"][0] | position]}


CONDITIONS: dict[str, dict[str, Any]] = {
    "NotReadyWithPosition": ill(is_ready=False),
    "UnprotectedPosition": HEALTHY,  # by the time of the scrape the engine has flattened it
    "PositionDrift": ill(drift_s=16),
    "UnsettledOrder": ill(unsettled=1, unsettled_age_s=61),
    "FeedStale": ill(feeds={"btcusdt@kline_1m": {"is_fresh": False}}),
    "ClockOffset": ill(clock_offset_ms=-501),
    "DailyLoss": ill(day_pnl="-40"),
    "LiquidationNear": ill(liquidation_distance=0.09),
    "WeightHigh": ill(weight_share=0.81),
    "DiskLow": ill(disk_free_bytes=1_000_000_000),
    "BackupOld": ill(backup_age_s=7201),
}


def families(metrics: TraderMetrics) -> list[Metric]:
    return list(text_string_to_metric_families(metrics.render().decode()))


def series(first: TraderMetrics, last: TraderMetrics, *, is_up: bool = True) -> list[dict[str, str]]:
    """What Prometheus would store of two scrapes and everything between them, in promtool's notation."""
    ends = {(s.name, frozenset(s.labels.items())): s.value for f in families(last) for s in f.samples}
    found = [{"series": 'up{job="qmtl-trader",instance="t"}', "values": f"{int(is_up)}x150"}]
    for family in families(first):
        for sample in family.samples:
            if not sample.name.startswith("qmtl_"):
                continue
            labels = {"job": "qmtl-trader", "instance": "t", **sample.labels}
            text = ",".join(f'{name}="{value}"' for name, value in labels.items())
            step = (ends[sample.name, frozenset(sample.labels.items())] - sample.value) / 150
            values = f"{sample.value:f}+{step:f}x150"
            found.append({"series": f"{sample.name}{{{text}}}", "values": values})
    return found


def scrapes(status: dict[str, Any], alert: str = "") -> list[dict[str, str]]:
    first, last = TraderMetrics(), TraderMetrics()
    for metrics in (first, last):
        metrics.show(status)
    if alert == "UnprotectedPosition":
        last.on_event(ErrorRecorded(1, "unprotected_position", "BTCUSDT had no stop at the venue for 30 s"))
    for _ in range(150):
        last.on_committed(200.0 if alert == "JournalSlow" else 4.0)
    if alert == "ParityBroken":
        last.parity_breaks.inc(3)
    return series(first, last, is_up=alert != "TraderDown")


def promtool(*arguments: str, cwd: Path = MONITORING) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_rules_and_configuration_are_valid() -> None:
    for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_in_both_directions() -> None:
    cases = yaml.safe_load((MONITORING / "alerts_test.yml").read_text("utf-8"))["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    fires = {check["alertname"] for check in checks if check["exp_alerts"]}
    quiet = {check["alertname"] for check in checks if not check["exp_alerts"]}
    assert fires == set(ALERTS) == set(REQUIRED.split())
    assert quiet == set(ALERTS) - {"DeadMan"}


def test_each_condition_on_real_metrics_fires_its_alert_and_no_other(tmp_path: Path) -> None:
    wanted = {"healthy": HEALTHY, **CONDITIONS}
    wanted |= dict.fromkeys(("TraderDown", "JournalSlow", "ParityBroken"), HEALTHY)
    assert set(wanted) - {"healthy"} == set(ALERTS) - {"DeadMan"}
    cases = []
    for name, status in wanted.items():
        firing = 'count(ALERTS{alertstate="firing",alertname!="DeadMan"}) or vector(0)'
        named = f'count(ALERTS{{alertstate="firing",alertname="{name}"}}) or vector(0)'
        sample = {"labels": "{}", "value": int(name != "healthy")}
        case: dict[str, Any] = {"name": name, "interval": "5s", "input_series": scrapes(status, name)}
        case["promql_expr_test"] = [
            {"expr": query, "eval_time": "8m", "exp_samples": [sample]} for query in (firing, named)
        ]
        cases.append(case)
    body = {"rule_files": [str(MONITORING / "alerts.yml")], "evaluation_interval": "5s", "tests": cases}
    file = tmp_path / "real_test.yml"
    file.write_text(yaml.safe_dump(body), "utf-8")
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_rule_is_noticed(tmp_path: Path) -> None:
    rules = (MONITORING / "alerts.yml").read_text("utf-8")
    (tmp_path / "alerts.yml").write_text(rules.replace("seconds) > 30", "seconds) > 29"), "utf-8")
    shutil.copy(MONITORING / "alerts_test.yml", tmp_path)
    done = promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert done.returncode == 1
    assert "UnprotectedPosition" in done.stdout + done.stderr


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_alert_has_a_runbook_page(language: str) -> None:
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/en/runbook/{name}.md"
        page = ROOT / "docs" / language / "runbook" / f"{name}.md"
        text = page.read_text("utf-8")
        assert text.startswith(f"# {name}")
        assert "qmtl " in text
        share = len(re.findall(r"[가-힣]", text)) / len(text)
        assert share > 0.2 if language == "ko" else share == 0


def test_the_dashboard_is_strict_json_and_every_query_parses(tmp_path: Path) -> None:
    def no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    board = json.loads(
        (MONITORING / "dashboards" / "trader.json").read_text("utf-8"), object_pairs_hook=no_double
    )
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 25
    rules = [{"record": f"panel:{n}", "expr": q.replace("$instance", ".*")} for n, q in enumerate(queries)]
    text = yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]})
    (tmp_path / "board.yml").write_text(text, "utf-8")
    done = promtool("check", "rules", str(tmp_path / "board.yml"))
    assert done.returncode == 0, done.stderr


def test_gauges_show_the_status_and_forget_closed_positions() -> None:
    metrics = TraderMetrics()
    metrics.show(HEALTHY)
    value = metrics.registry.get_sample_value
    assert value("qmtl_position", {"symbol": "BTCUSDT", "side": "BOTH"}) == 0.01
    assert value("qmtl_trading_state", {"state": "ACTIVE"}) == 1
    assert value("qmtl_orders", {"state": "accepted"}) == 1
    assert value("qmtl_clock_offset_seconds") == 0.012
    assert value("qmtl_day_loss_limit") == 50
    metrics.show(HEALTHY | {"positions": [], "state": "HALTED", "orders": []})
    assert value("qmtl_position", {"symbol": "BTCUSDT", "side": "BOTH"}) is None
    assert value("qmtl_liquidation_distance_ratio", {"symbol": "BTCUSDT"}) is None
    assert value("qmtl_trading_state", {"state": "ACTIVE"}) == 0
    assert value("qmtl_trading_state", {"state": "HALTED"}) == 1
    assert value("qmtl_orders", {"state": "accepted"}) == 0


def test_events_are_counted() -> None:
    metrics = TraderMetrics()
    intent = OrderIntent(symbol="BTCUSDT", side=Side.BUY, quantity=Decimal(1))
    for _ in range(3):
        metrics.on_event(IntentRefused(1, "halted", "smoke", intent))
    for total in (0, 1, 1, 3):
        metrics.show(HEALTHY | {"reconnects": {"user": total}, "conflated": 10 * total})
    metrics.on_decided(2.0)
    metrics.on_answered(30.0)
    metrics.on_alert("drift", "BTCUSDT")
    value = metrics.registry.get_sample_value
    assert value("qmtl_risk_refusals_total", {"code": "halted"}) == 3
    assert value("qmtl_reconnects_total", {"stream": "user"}) == 3
    assert value("qmtl_conflated_prices_total") == 30
    assert value("qmtl_decision_latency_seconds_bucket", {"le": "0.0025"}) == 1
    assert value("qmtl_decision_latency_seconds_bucket", {"le": "0.001"}) == 0
    assert value("qmtl_order_latency_seconds_sum") == pytest.approx(0.03)
    assert value("qmtl_alerts_total", {"code": "drift"}) == 1
