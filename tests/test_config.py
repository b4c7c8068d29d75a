from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl import config
from qmtl.config import ConfigError, Override, load, load_with_sources, reveal
from qmtl.settings import Settings

SECRET = "s3cr3t-9f8e7d6c5b4a"


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with no QMTL_* in the environment."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    for name in config.ALIASES:
        monkeypatch.delenv(name, raising=False)
    return place


def write(here: Path, text: str, name: str = "qmtl.yml") -> Path:
    (here / name).write_text(text, "utf-8")
    return here / name


def test_defaults_are_the_contract_s(here: Path) -> None:
    settings = load()
    assert settings.connectors.execution_domain is None
    assert settings.connectors.trade_max_retries == 3
    assert settings.connectors.order_journal.name == "orders.db"
    assert settings.account.fills == "simulated"
    assert settings.account.leverage == 1
    assert settings.account.margin_mode == "isolated"
    assert settings.risk.catastrophe_stop == Decimal("0.02")
    assert settings.trader.decision.cooldown_s == 300
    assert settings.runtime.http_timeout_seconds_test == 1.5
    assert load_with_sources().source("demo.speed") == "default"


@pytest.mark.parametrize("name", config.FILE_NAMES)
def test_the_file_of_the_working_directory_is_read(here: Path, name: str) -> None:
    write(here, "demo:\n  speed: 600\ntrader:\n  symbol: ETH/USDT:USDT\n", name)
    loaded = load_with_sources()
    assert loaded.settings.demo.speed == 600
    assert loaded.settings.trader.symbol == "ETHUSDT"
    assert loaded.source("demo.speed") == name


def test_option_beats_environment_beats_file_beats_default(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "connectors:\n  trade_max_retries: 1\ndemo: {speed: 2, port: 1}\n")
    monkeypatch.setenv("QMTL_CONNECTORS__TRADE_MAX_RETRIES", "3")
    monkeypatch.setenv("QMTL_DEMO__SPEED", "5")
    monkeypatch.setenv("QMTL_TRADER__DECISION__COOLDOWN_S", "60")
    loaded = load_with_sources(overrides=(Override("demo.speed", "7", "--speed"),))
    assert loaded.settings.connectors.trade_max_retries == 3
    assert loaded.settings.trader.decision.cooldown_s == 60
    assert loaded.settings.demo.speed == 7
    assert loaded.settings.demo.port == 1
    sources = {key: source for key, _, source in loaded.rows()}
    assert sources["connectors.trade_max_retries"] == "QMTL_CONNECTORS__TRADE_MAX_RETRIES"
    assert sources["demo.speed"] == "--speed"
    assert sources["demo.port"] == "qmtl.yml"
    assert sources["risk.max_daily_loss"] == "default"


def test_flat_aliases_of_the_pages(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCXT_APIKEY", "key")
    monkeypatch.setenv("CCXT_SECRET", SECRET)
    monkeypatch.setenv("QMTL_CCXT_RATE_LIMITER_REDIS", "redis://localhost:6379/0")
    connectors = load().connectors
    assert connectors.ccxt_apikey is not None
    assert reveal(connectors.ccxt_apikey) == "key"
    assert connectors.ccxt_rate_limiter_redis == "redis://localhost:6379/0"
    monkeypatch.setenv("QMTL_CONNECTORS__CCXT_APIKEY", "full name wins")
    connectors = load().connectors
    assert connectors.ccxt_apikey is not None
    assert reveal(connectors.ccxt_apikey) == "full name wins"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("connectors:\n  broker_ur: x\n", ["qmtl.yml", "connectors.broker_ur", "connectors.broker_url?"]),
        ("execution_domain: live\n", ["execution_domain", "connectors.execution_domain?"]),
        ("ris:\n  max_daily_loss: 5\n", ["ris", "did you mean risk?"]),
        ("zzz: 1\n", ["zzz", "known: profile, account"]),
        ("demo: {speed: 0}\n", ["demo.speed", "found 0", "a number > 0"]),
        ("demo: {speed: fast}\n", ["demo.speed", "'fast'", "a number"]),
        ("demo: {speed: true}\n", ["demo.speed", "True", "no true or false"]),
        ("demo: {port: 99999}\n", ["demo.port", "99999", "<= 65535"]),
        ("trader: {quantity: -1}\n", ["trader.quantity", "-1", "a number > 0"]),
        ("trader: {quantity: .nan}\n", ["trader.quantity", "nan", "a finite number"]),
        ("trader: {quantity: 1, notional: 5}\n", ["trader", "quantity and notional exclude each other"]),
        ("trader: {symbol: '??'}\n", ["trader.symbol", "BTC/USDT:USDT"]),
        ("trader: {interval: 7m}\n", ["trader.interval", "7m", "known: 1s"]),
        ("account: {leverage: 2.9}\n", ["account.leverage", "2.9", "a whole number"]),
        ("account: {api_key: only}\n", ["account", "api_key and secret go together"]),
        ("connectors: {trade_max_retries: 11}\n", ["connectors.trade_max_retries", "11", "<= 10"]),
        ("connectors: {ws_url: 'http://x'}\n", ["connectors.ws_url", "ws:// or wss://"]),
        (
            "connectors: {execution_domain: live, broker_url: 'http://broker'}\n",
            ["connectors", "broker_url must be https off loopback"],
        ),
        ("connectors: {execution_domain: test}\n", ["execution_domain", "'test'", "'dryrun'"]),
        ("risk: 5\n", ["risk", "found 5", "a section of keys"]),
        ("- a\n", ["qmtl.yml", "expected sections of keys", "list"]),
        ("demo: {speed: 1\n", ["qmtl.yml", "line 2"]),
    ],
)
def test_bad_input_is_one_line_naming_the_thing(here: Path, text: str, parts: list[str]) -> None:
    write(here, text)
    with pytest.raises(ConfigError) as raised:
        load()
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_bad_environment_names_the_variable(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMTL_DEMO__SPED", "5")
    with pytest.raises(ConfigError, match=r"^QMTL_DEMO__SPED: demo\.sped: unknown key; .*demo\.speed\?$"):
        load()
    monkeypatch.delenv("QMTL_DEMO__SPED")
    monkeypatch.setenv("QMTL_DEMO__SPEED", "-2")
    with pytest.raises(ConfigError, match=r"^QMTL_DEMO__SPEED: demo\.speed: found '-2', expected"):
        load()
    monkeypatch.setenv("QMTL_DEMO", "5")
    with pytest.raises(ConfigError, match="demo"):
        load()


def test_a_missing_file_is_named(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^none\.yml: no such configuration file$"):
        load("none.yml")


def test_money_may_carry_its_unit_and_shares_a_percent_sign(here: Path) -> None:
    write(here, "risk: {max_daily_loss: 50 USDT}\ntrader: {size_pct: 1%}\n")
    settings = load()
    assert settings.risk.max_daily_loss == 50
    assert settings.trader.size_pct == Decimal("0.01")


def test_paper_is_dryrun_and_live_may_use_loopback(here: Path) -> None:
    write(here, "connectors: {execution_domain: paper}\n")
    assert load().connectors.execution_domain == "dryrun"
    write(here, "connectors: {execution_domain: live, broker_url: 'http://127.0.0.1:8000/orders'}\n")
    assert load().connectors.broker_url == "http://127.0.0.1:8000/orders"


def test_settings_are_frozen(here: Path) -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.demo.speed = 3


def test_a_secret_file_is_read_each_time(here: Path) -> None:
    (here / "token").write_text("one\n", "utf-8")
    write(here, "connectors: {broker_token: 'file:token'}\n")
    token = load().connectors.broker_token
    assert token is not None
    assert reveal(token) == "one"
    (here / "token").write_text("two\n", "utf-8")
    assert reveal(token) == "two"
    (here / "token").unlink()
    with pytest.raises(ConfigError, match=r"^token: no such secret file$"):
        reveal(token)


def test_key_file_forms_and_account_name(here: Path) -> None:
    for text in (f"my-key\n{SECRET}\n", f"api_key: my-key\nsecret: {SECRET}\n"):
        (here / "keys").write_text(text, "utf-8")
        write(here, "account: {key_file: keys}\n")
        assert config.account_keys(load()) == ("my-key", SECRET)
    assert config.account_name(load()).startswith("binanceusdm-")
    write(here, "account: {key_file: keys, name: desk}\n")
    assert config.account_name(load()) == "desk"
    (here / "keys").write_text("only one line\n", "utf-8")
    with pytest.raises(ConfigError, match=r"^keys: expected api_key: and secret:"):
        config.account_keys(load())
    (here / "keys").unlink()
    with pytest.raises(ConfigError, match=r"^keys: no such key file$"):
        config.account_keys(load())


def test_no_secret_in_repr_rows_or_errors(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, f"account: {{api_key: k, secret: {SECRET}}}\nconnectors: {{ccxt_secret: {SECRET}}}\n")
    loaded = load_with_sources()
    assert SECRET not in repr(loaded)
    assert SECRET not in str(list(loaded.rows()))
    write(here, f"account: {{api_key: k, secret: [{SECRET}]}}\n")
    with pytest.raises(ConfigError) as raised:
        load()
    assert SECRET not in str(raised.value)
    assert "account.secret" in str(raised.value)


@given(st.sampled_from([key for key, _ in config.walk_keys(Settings)]), st.data())
def test_a_dropped_letter_is_suggested_back(key: str, data: st.DataObject) -> None:
    section, _, name = key.rpartition(".")
    if not section or len(name) < 6:
        return
    at = data.draw(st.integers(1, len(name) - 1))
    wrong = f"{section}.{name[:at]}{name[at + 1 :]}"
    if wrong in {known for known, _ in config.walk_keys(Settings)}:
        return
    with pytest.raises(ConfigError) as raised:
        load_with_sources(overrides=(Override(wrong, "1", "--x"),), environment={})
    assert "did you mean" in str(raised.value)


def test_a_home_directory_is_the_one_of_now(here: Path, home: Path) -> None:
    settings = load()
    assert settings.journal.directory == home / ".qmtl"
    assert settings.connectors.order_journal == home / ".qmtl" / "orders.db"
