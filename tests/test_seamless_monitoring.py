"""The bundle of seamless.md §13: dashboards, rules and alerts, and that each alert fires on real metrics."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from qmtl.metrics import SeamlessMetrics
from scripts.unpack_bundle import unpack
from tests.test_metrics import MONITORING, ROOT, promtool

TEXT = (MONITORING / "seamless_v2.jsonnet").read_text("utf-8")
BUNDLE: dict[str, Any] = json.loads(TEXT)
ALERTS: dict[str, Any] = {rule["alert"]: rule for rule in BUNDLE["alerts"]}
BOARDS = {
    "Seamless SLA Overview": {"Total p99", "p99 by phase", "Total p95"},
    "Backfill Coordinator Health": {
        "Active jobs",
        "Completion by series",
        "Last timestamps",
        "Coordinator up",
        "Failures and retries",
    },
    "Conformance Quality": {"Flags in 15 minutes", "Flags by node", "Flags by type"},
    "Live and Limits": {
        "Staleness",
        "Reconnects",
        "Limiter wait p99",
        "Degraded limiters",
        "Tokens available",
    },
}
HOLDS = {
    "SeamlessSla99thDegraded": (" > 240", "5m"),
    "SeamlessBackfillStuckLease": (" < 0.5", "10m"),
    "SeamlessConformanceFlagSpike": ("[15m])) > 50", None),
    "SeamlessCoordinatorDown": (" == 0", "2m"),
    "SeamlessRateLimiterDegraded": (" == 1", "5m"),
    "SeamlessLiveStale": (" > 120", "2m"),
}
SERIES = ("ohlcv:binance:BTC/USDT:1m", "60")


def queries() -> list[str]:
    targets = [t for board in BUNDLE["dashboards"] for panel in board["panels"] for t in panel["targets"]]
    return [target["expr"] for target in targets]


def test_39_the_bundle_is_strict_json_of_the_contracts_parts() -> None:
    def no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    assert list(json.loads(TEXT, object_pairs_hook=no_double)) == [
        "bundle",
        "version",
        "dashboards",
        "recordingRules",
        "alerts",
    ]
    shown = {board["title"]: {panel["title"] for panel in board["panels"]} for board in BUNDLE["dashboards"]}
    assert set(shown) == set(BOARDS)
    for title, panels in BOARDS.items():
        assert panels <= shown[title]
    for board in BUNDLE["dashboards"]:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert [rule["record"] for rule in BUNDLE["recordingRules"]] == ["seamless_sla_total_p99_seconds"]
    assert set(ALERTS) == set(HOLDS)
    for name, (bound, hold) in HOLDS.items():
        assert bound in ALERTS[name]["expr"]
        assert ALERTS[name].get("for") == hold


def test_39_its_metrics_are_those_of_the_registry() -> None:
    declared = {family.name for family in SeamlessMetrics().registry.collect()}
    rules = [rule["expr"] for rule in BUNDLE["recordingRules"] + BUNDLE["alerts"]]
    selected = re.compile(r"\b([a-z_]+)(?=\{| [<>=]| unless| offset|\[)")
    suffix = re.compile(r"_(total|bucket|sum|count)$")
    used = {suffix.sub("", name) for text in queries() + rules for name in selected.findall(text)}
    used -= {"seamless_sla_total_p99_seconds"}
    assert used == declared


def test_what_prometheus_and_grafana_read_is_the_bundles() -> None:
    files = unpack(TEXT)
    assert {name: (MONITORING / name).read_text("utf-8") for name in files} == files
    boards = {f"dashboards/{path.name}" for path in (MONITORING / "dashboards").glob("seamless-*.json")}
    assert boards == {name for name in files if name.startswith("dashboards/")}


def test_rules_are_valid_and_every_alert_is_tested_in_both_directions() -> None:
    for arguments in (
        ("check", "rules", "seamless_v2_rules.yml"),
        ("test", "rules", "seamless_v2_rules_test.yml"),
    ):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    cases = yaml.safe_load((MONITORING / "seamless_v2_rules_test.yml").read_text("utf-8"))["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == set(ALERTS)
    quiet = [case for case in cases if "stays quiet" in case["name"]]
    assert {check["alertname"] for case in quiet for check in case["alert_rule_test"]} == set(ALERTS)
    assert not any(check["exp_alerts"] for case in quiet for check in case["alert_rule_test"])


def test_every_query_parses(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": q.replace("$instance", ".*")} for n, q in enumerate(queries())]
    assert len(rules) > 25
    (tmp_path / "board.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), "utf-8"
    )
    done = promtool("check", "rules", str(tmp_path / "board.yml"))
    assert done.returncode == 0, done.stderr


# --- each condition on real metrics ---------------------------------------------------------------


def slow(metrics: SeamlessMetrics) -> None:
    for _ in range(100):
        metrics.sla_deadline.labels(SERIES[0], "total").observe(300)


def stuck(metrics: SeamlessMetrics) -> None:
    metrics.backfill_completion.labels(*SERIES).set(0.3)
    metrics.backfill_jobs.labels(*SERIES).set(1)


def flagged(metrics: SeamlessMetrics) -> None:
    metrics.conformance_flag.labels(*SERIES, "gap").inc(200)


CONDITIONS: dict[str, Callable[[SeamlessMetrics], None]] = {
    "SeamlessSla99thDegraded": slow,
    "SeamlessBackfillStuckLease": stuck,
    "SeamlessConformanceFlagSpike": flagged,
    "SeamlessCoordinatorDown": lambda metrics: metrics.coordinator_up.set(0),
    "SeamlessRateLimiterDegraded": lambda metrics: metrics.limiter_degraded.labels("ccxt:binance").set(1),
    "SeamlessLiveStale": lambda metrics: metrics.live_staleness.labels(*SERIES).set(121),
}


def work_well(metrics: SeamlessMetrics, times: int) -> None:
    """What a healthy process shows: fast fetches, a few flags, finished backfills."""
    for _ in range(times):
        for phase in ("total", "storage_wait", "backfill_wait", "live_wait"):
            metrics.sla_deadline.labels(SERIES[0], phase).observe(0.2)
        metrics.conformance_flag.labels(*SERIES, "gap").inc(0.1)
    metrics.backfill_completion.labels(*SERIES).set(1)
    metrics.backfill_jobs.labels(*SERIES).set(0)
    metrics.live_staleness.labels(*SERIES).set(3)
    metrics.limiter_degraded.labels("ccxt:binance").set(0)


def scrapes(condition: Callable[[SeamlessMetrics], None] | None) -> list[dict[str, str]]:
    """What Prometheus would store over 20 minutes in which `condition` holds."""
    first, last = SeamlessMetrics(), SeamlessMetrics()
    work_well(first, 1)
    work_well(last, 50)
    if condition is not None:
        condition(last)
    ends = {sample[:2]: sample[2] for sample in samples(last)}
    found = []
    for name, labels, value in samples(first):
        end = ends[name, labels]
        text = ",".join(f'{key}="{said}"' for key, said in (("job", "j"), ("instance", "t"), *labels))
        if name.endswith(("_total", "_bucket", "_sum", "_count")):
            values = f"{value:f}+{(end - value) / 80:f}x80"
        else:
            values = " ".join(["NaN"] * 80) if math.isnan(end) else f"{end:f}x80"
        found.append({"series": f"{name}{{{text}}}", "values": values})
    return found


def samples(metrics: SeamlessMetrics) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
    return [
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


def test_39_each_condition_on_real_metrics_fires_its_alert_and_no_other(tmp_path: Path) -> None:
    assert set(CONDITIONS) == set(ALERTS)
    cases = []
    for name in ("healthy", *CONDITIONS):
        firing = 'count(ALERTS{alertstate="firing"}) or vector(0)'
        named = f'count(ALERTS{{alertstate="firing",alertname="{name}"}}) or vector(0)'
        sample = {"labels": "{}", "value": int(name != "healthy")}
        checks = [{"expr": expr, "eval_time": "19m", "exp_samples": [sample]} for expr in (firing, named)]
        inputs = scrapes(CONDITIONS.get(name))
        cases.append({"name": name, "interval": "15s", "input_series": inputs, "promql_expr_test": checks})
    body = {
        "rule_files": [str(MONITORING / "seamless_v2_rules.yml")],
        "evaluation_interval": "15s",
        "tests": cases,
    }
    file = tmp_path / "real_test.yml"
    file.write_text(yaml.safe_dump(body), "utf-8")
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_alert_has_a_runbook_page(language: str) -> None:
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/en/runbook/{name}.md"
        text = (ROOT / "docs" / language / "runbook" / f"{name}.md").read_text("utf-8")
        assert text.startswith(f"# {name}")
        share = len(re.findall(r"[가-힣]", text)) / len(text)
        assert share > 0.2 if language == "ko" else share == 0
