"""Constructor over environment over file over default, for every key of `seamless:`; and what stays out."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qmtl.config import ConfigError, load_with_sources
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.artifacts import ArtifactRegistrar
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.backfill import CoordinatorClient
from qmtl.runtime.sdk.seamless_data_provider import CacheConfig
from qmtl.runtime.sdk.sla import SLAPolicy
from tests.conftest import ROOT

Provider = EnhancedQuestDBProvider
CANARY = "canary-4f1d"
PRESETS = {"sla_presets": {"mine": {"max_lag_seconds": 7}}, "conformance_presets": {"mine": {"block": []}}}


def address(provider: Provider) -> Any:
    store = provider.store
    return store._address.port if isinstance(store, QuestDBStore) else None


def folder(provider: Provider) -> Any:
    return provider.store.path.name if isinstance(provider.store, EmbeddedStore) else None


def ttl(provider: Provider) -> Any:
    return provider._cache._ttl_ms if provider._cache else None


# key: (in the file, in the environment, what the constructor is given, where it shows, what shows there by
# default, by file, by environment, by constructor)
KEYS: dict[str, tuple[Any, Any, dict[str, Any], Callable[[Provider], Any], tuple[Any, ...]]] = {
    "store_dir": ("a", "b", {"dsn": "embedded:c"}, folder, (".qmtl_seamless_store", "a", "b", "c")),
    "questdb_dsn": (
        "postgresql://127.0.0.1:8001/q",
        "questdb://127.0.0.1:8002",
        {"dsn": "postgresql://127.0.0.1:8003/q"},
        address,
        (None, 8001, 8002, 8003),
    ),
    "artifact_dir": (
        "a",
        "b",
        {"registrar": ArtifactRegistrar("c")},
        lambda p: Path(p._reader.base_dir).name if p._reader else None,
        (".qmtl_seamless_artifacts", "a", "b", "c"),
    ),
    "artifacts_enabled": (
        True,
        "false",
        {"registrar": ArtifactRegistrar("c")},
        lambda p: p.registrar is not None,
        (False, True, False, True),
    ),
    "publish_fingerprint": (False, "true", {}, lambda p: p._has_fingerprint, (True, False, True, True)),
    "sla_preset": (
        "strict",
        "tolerant-partial",
        {"sla": SLAPolicy(max_lag_seconds=1)},
        lambda p: (p.sla.max_lag_seconds, p.sla.on_violation.value),
        ((45, "partial_fill"), (45, "fail_fast"), (90, "partial_fill"), (1, "fail_fast")),
    ),
    "conformance_preset": (
        "permissive-dev",
        "strict-blocking",
        {"conformance": "permissive-dev"},
        lambda p: p.partial_ok,
        (False, True, False, True),
    ),
    "stabilization_bars": (5, "6", {"stabilization_bars": 0}, lambda p: p.stabilization_bars, (2, 5, 6, 0)),
    "cache_ttl_ms": (5, "6", {"cache": CacheConfig(ttl_ms=7)}, ttl, (60_000, 5, 6, 7)),
    "metrics_max_series": (5, "6", {}, lambda _: SEAMLESS.max_series, (500, 5, 6, 6)),
    "coordinator_url": (
        "http://127.0.0.1:8001",
        "http://127.0.0.1:8002",
        {"coordinator": CoordinatorClient("http://127.0.0.1:8003")},
        lambda p: getattr(p.coordinator, "url", None),
        (None, "http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"),
    ),
}


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(home)
    runtime._loaded.clear()
    yield home
    runtime._loaded.clear()
    SEAMLESS.max_series = 500


@pytest.mark.parametrize("key", KEYS)
def test_38_each_key_by_its_source(key: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance 38: precedence."""
    in_file, in_environment, given, look, (default, by_file, by_environment, by_constructor) = KEYS[key]

    def shown(**more: Any) -> Any:
        runtime._loaded.clear()
        return look(EnhancedQuestDBProvider(**more))

    assert shown() == default
    (here / "qmtl.yml").write_text(yaml.safe_dump({"seamless": {key: in_file}}))
    assert shown() == by_file
    monkeypatch.setenv(f"QMTL_SEAMLESS__{key.upper()}", in_environment)
    assert shown() == by_environment
    assert shown(**given) == by_constructor


def test_38_the_keys_without_a_constructor_of_their_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets = here / "presets.yml"
    presets.write_text(yaml.safe_dump(PRESETS))
    section = {"presets_file": str(presets), "sla_preset": "mine", "conformance_preset": "mine"}
    (here / "qmtl.yml").write_text(yaml.safe_dump({"seamless": section}))
    provider = EnhancedQuestDBProvider()
    assert provider.sla.max_lag_seconds == 7
    assert isinstance(provider.coordinator, LeaseStore)
    monkeypatch.setenv("QMTL_SEAMLESS__COORDINATOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("QMTL_SEAMLESS__COORDINATOR_TOKEN", CANARY)
    monkeypatch.setenv("QMTL_SEAMLESS__QUESTDB_HTTP", "http://127.0.0.1:9123")
    monkeypatch.setenv("QMTL_CONNECTORS__SEAMLESS_WORKER_ID", "w7")
    runtime._loaded.clear()
    provider = EnhancedQuestDBProvider()
    assert provider._owner == "w7"
    assert runtime.settings().seamless.questdb_http == "http://127.0.0.1:9123"
    monkeypatch.setenv("QMTL_SEAMLESS__SLA_PRESET", "mein")
    runtime._loaded.clear()
    with pytest.raises(ConfigError, match=r"seamless.sla_preset 'mein' is not known.*did you mean mine"):
        EnhancedQuestDBProvider()


def test_38_unknown_keys_suggest(here: Path) -> None:
    for wrong, right in (
        ("store_dri", "store_dir"),
        ("sla_prest", "sla_preset"),
        ("coordinator", "coordinator"),
    ):
        (here / "qmtl.yml").write_text(yaml.safe_dump({"seamless": {wrong: "x"}}))
        with pytest.raises(ConfigError, match=f"qmtl.yml.*{wrong}.*{right}"):
            load_with_sources()


def test_38_secrets_are_never_printed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMTL_SEAMLESS__COORDINATOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("QMTL_SEAMLESS__COORDINATOR_TOKEN", CANARY)
    monkeypatch.setenv("QMTL_SEAMLESS__QUESTDB_DSN", f"postgresql://me:{CANARY}@127.0.0.1:1/q")
    monkeypatch.setenv("CCXT_APIKEY", CANARY)
    monkeypatch.setenv("CCXT_SECRET", CANARY)
    runtime._loaded.clear()
    loaded = load_with_sources()
    provider = EnhancedQuestDBProvider()
    shown = [repr(loaded.settings), *map(repr, loaded.rows()), repr(provider), repr(provider.coordinator)]
    shown += [repr(vars(provider)), repr(provider.store), str(runtime.settings())]
    assert CANARY not in " ".join(shown)
    assert loaded.source("connectors.ccxt_apikey") == "CCXT_APIKEY"


def test_40_importing_the_provider_loads_no_client(tmp_path: Path) -> None:
    """Acceptance 40; the ratio to polars is in bench/covered_fetch."""
    program = (
        "import json, sys\n"
        "from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"ccxt", "redis", "fastapi", "asyncpg", "questdb", "aiohttp", "pandas", "sqlalchemy"}


def test_40_ten_thousand_series_give_at_most_501_labels() -> None:
    metrics = type(SEAMLESS)()
    for number in range(10_000):
        labels = metrics.series(f"ohlcv:binance:C{number}/USDT:1m", 60)
        metrics.cache_hit.labels(*labels).inc()
    (family,) = metrics.cache_hit.collect()
    names = {sample.labels["node_id"] for sample in family.samples}
    assert len(names) == 501
    assert "other" in names
