"""Consents and plain parameters of a session."""

from decimal import Decimal
from typing import Any

import pytest

from qmtl.settings import Settings
from qmtl.trader.callback import Callback
from qmtl.trader.decision import DecisionParams
from qmtl.trader.prelim import SetupRefusedError
from qmtl.trader.session import bollinger_params, check_consents, has_venue_fills

LIVE: dict[str, Any] = {
    "account": {"name": "main", "api_key": "k", "secret": "s"},
    "connectors": {"execution_domain": "live"},
    "risk": {"max_daily_loss": "50 USDT"},
}


@pytest.mark.parametrize(
    ("missing", "typed", "message"),
    [
        ("connectors", "main", "connectors.execution_domain: live is missing"),
        ("account", "main", "account.key_file is missing; live requires it"),
        ("risk", "main", "risk.max_daily_loss is missing; live requires it, e.g. 50 USDT"),
        ("", None, "live trades real money of account main: its name was not given"),
        ("", "other", "live trades real money of account main: its name was not given"),
    ],
)
def test_live_names_the_first_consent_it_misses(missing: str, typed: str | None, message: str) -> None:
    settings = Settings.model_validate({key: value for key, value in LIVE.items() if key != missing})
    with pytest.raises(SetupRefusedError, match=f"^{message}"):
        check_consents(settings, "live", typed)


def test_live_with_every_consent_and_dryrun_without_any_are_let_through() -> None:
    check_consents(Settings.model_validate(LIVE), "live", "main")
    check_consents(Settings(), "dryrun", None)
    assert has_venue_fills(Settings(), "live")
    assert not has_venue_fills(Settings(), "dryrun")


def test_venue_fills_need_keys_and_domains_are_two() -> None:
    with pytest.raises(SetupRefusedError, match=r"account\.api_key is missing; account\.fills: venue"):
        check_consents(Settings.model_validate({"account": {"fills": "venue"}}), "dryrun", None)
    with pytest.raises(SetupRefusedError, match="expected dryrun or live, got 'shadow'"):
        check_consents(Settings(), "shadow", None)


def test_the_settings_become_exactly_the_parameters_of_the_trader() -> None:
    assert Callback.from_params(bollinger_params(Settings())).params == DecisionParams()
    decision = {"stop": 0.002, "window": 30, "cooldown_s": 60}
    settings = Settings.model_validate(
        {"trader": {"symbol": "ETH/USDT", "interval": "5m", "size_pct": "1%", "decision": decision}}
    )
    params = Callback.from_params(bollinger_params(settings)).params
    assert (params.symbol, params.interval, params.size_pct) == ("ETHUSDT", "5m", Decimal("0.01"))
    assert (params.stop, params.window, params.cooldown_s) == (Decimal("0.002"), 30, 60.0)
    other = Settings.model_validate({"trader": {"symbol": "ETHUSDT"}})
    assert Callback.from_params(bollinger_params(other)).params.notional == Decimal(500)
