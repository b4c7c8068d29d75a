"""The sections of qmtl.yml as frozen models; `qmtl.config` fills them."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from qmtl.core.instrument import parse_symbol
from qmtl.core.interval import parse_interval

Domain = Literal["backtest", "dryrun", "live", "shadow"]


def _strip_currency(value: object) -> object:
    """`50 USDT` is 50: people write the unit where money is meant."""
    if isinstance(value, str) and value.strip().upper().endswith((" USDT", " USDC")):
        return value.strip()[:-5]
    return value


def _strip_percent(value: object) -> object:
    """`1%` is 0.01."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return Decimal(value.strip()[:-1]) / 100
        except ArithmeticError:
            return value
    return value


def _check_interval(text: str) -> str:
    parse_interval(text)
    return text


def _check_url(text: str) -> str:
    head, separator, rest = text.partition("://")
    if head not in {"http", "https"} or not separator or not rest.strip("/"):
        raise ValueError("expected an http:// or https:// URL")
    return text.rstrip("/")


def _check_ws_url(text: str) -> str:
    head, separator, rest = text.partition("://")
    if head not in {"ws", "wss"} or not separator or not rest.strip("/"):
        raise ValueError("expected a ws:// or wss:// URL")
    return text.rstrip("/")


def _expand(path: Path) -> Path:
    return path.expanduser()


Share = Annotated[Decimal, BeforeValidator(_strip_percent), Field(gt=0, lt=1, allow_inf_nan=False)]
Rate = Annotated[Decimal, BeforeValidator(_strip_percent), Field(gt=-1, lt=1, allow_inf_nan=False)]
Money = Annotated[Decimal, BeforeValidator(_strip_currency), Field(gt=0, allow_inf_nan=False)]
Quantity = Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
Symbol = Annotated[str, AfterValidator(parse_symbol)]
Interval = Annotated[str, AfterValidator(_check_interval)]
Url = Annotated[str, AfterValidator(_check_url)]
WsUrl = Annotated[str, AfterValidator(_check_ws_url)]
LocalPath = Annotated[Path, AfterValidator(_expand)]


def _takes_bool(annotation: Any) -> bool:
    if get_origin(annotation) in {Union, UnionType, Annotated}:
        return any(_takes_bool(part) for part in get_args(annotation))
    return annotation is bool


class Section(BaseModel):
    """Base of every section: frozen, no unknown key, no true or false where a number is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML turns `yes` and `on` into true, and pydantic would turn true into 1.
        if isinstance(value, bool) and info.field_name:
            field = cls.model_fields[info.field_name]
            if not _takes_bool(field.annotation):
                raise ValueError("expected no true or false here")
        return value


class AccountSection(Section):
    """Whose money, at which venue, how far orders reach."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,40}$")] | None = None
    venue: Literal["binanceusdm"] = "binanceusdm"
    key_file: LocalPath | None = None
    api_key: SecretStr | None = None
    secret: SecretStr | None = None
    base_url: Url = "https://fapi.binance.com"
    ws_url: WsUrl = "wss://fstream.binance.com"
    client: Literal["binance", "ccxt"] = "binance"
    order_road: Literal["rest", "websocket"] = "rest"
    fills: Literal["simulated", "venue"] = "simulated"
    asset: Annotated[str, Field(pattern=r"^[A-Z0-9]{2,10}$")] = "USDT"
    leverage: Annotated[int, Field(ge=1, le=125)] = 1
    margin_mode: Literal["isolated", "cross"] = "isolated"
    position_mode: Literal["one_way", "hedge"] = "one_way"

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> "AccountSection":
        if self.key_file and (self.api_key or self.secret):
            raise ValueError("key_file and api_key, secret exclude each other")
        if bool(self.api_key) != bool(self.secret):
            raise ValueError("api_key and secret go together")
        if self.client == "ccxt" and self.order_road == "websocket":
            raise ValueError("order_road: websocket needs client: binance")
        return self


class RiskSection(Section):
    """Limits between strategy and venue; an unset limit does not limit, money is in the account's asset."""

    max_order_notional: Money | None = None
    max_position: Money | None = None
    max_open_orders: Annotated[int, Field(gt=0)] | None = None
    orders_per_minute: Annotated[int, Field(gt=0)] | None = 60
    price_band: Share | None = Decimal("0.05")
    max_daily_loss: Money | None = None
    max_drawdown: Share | None = None
    catastrophe_stop: Share = Decimal("0.02")
    clock_offset_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1_000.0


class DecisionSection(Section):
    """Constants of the Bollinger trader (contract, trader §2)."""

    window: Annotated[int, Field(ge=2, le=10_000)] = 20
    inner: Factor = 1.0
    outer: Factor = 2.0
    rv_window: Annotated[int, Field(ge=2, le=10_000)] = 10
    rv_horizon: Annotated[int, Field(ge=1, le=10_000)] = 20
    stop: Share = Decimal("0.0011")
    target: Share = Decimal("0.0016")
    offset: Annotated[Decimal, BeforeValidator(_strip_percent), Field(ge=0, lt=1)] = Decimal("0.0001")
    cooldown_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 300.0
    entry_timeout_s: Seconds = 30.0
    exit_timeout_s: Seconds = 5.0
    has_volatility_gate: bool = True


class TraderSection(Section):
    """What is traded, how much, and how; one of quantity, notional, size_pct and volatility_target.

    A volatility target is the yearly standard deviation a position should have, as a share of equity, by the
    last `volatility_window` closes.
    """

    symbol: Symbol = "BTCUSDT"
    interval: Interval = "1m"
    quantity: Quantity | None = None
    notional: Money | None = None
    size_pct: Share | None = None
    volatility_target: Annotated[Decimal, BeforeValidator(_strip_percent), Field(gt=0, lt=100)] | None = None
    volatility_window: Annotated[int, Field(ge=2, le=100_000)] = 1_440
    order_type: Literal["LIMIT", "IOC", "MARKET"] = "LIMIT"
    decision: DecisionSection = Field(default_factory=DecisionSection)

    @model_validator(mode="after")
    def _one_size(self) -> "TraderSection":
        sizes = ("quantity", "notional", "size_pct", "volatility_target")
        given = [name for name in sizes if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        return self


class BacktestSection(Section):
    """What a backtest assumes: first balance, fees as shares of notional, slippage, latency, the fill model.

    `funding` is a file of recorded 8h rates, `funding_marks` one of the mark prices of the same times; runs
    are kept below `directory`.
    """

    wallet: Money = Decimal(10_000)
    fee: Rate = Decimal("0.0004")
    maker_fee: Rate = Decimal("0.0002")
    slippage_ticks: Annotated[int, Field(ge=0, le=10_000)] = 1
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    latency_sigma: Annotated[float, Field(ge=0, le=5)] = 0.0
    fill: Literal["next_open", "close"] = "next_open"
    liquidity: Literal["unlimited", "candle_share"] = "unlimited"
    funding: LocalPath | None = None
    funding_marks: LocalPath | None = None
    seed: int = 7
    directory: LocalPath = Path("runs")


class SweepSection(Section):
    """Where `qmtl sweep` evaluates: on this machine, or on a Ray cluster; `address` names a running one.

    Without `workers` as many as there are processors.
    """

    engine: Literal["local", "ray"] = "local"
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    address: str | None = None


class DemoSection(Section):
    """What `qmtl demo` replays; without data a seeded synthetic market."""

    data: LocalPath | None = None
    speed: Factor = 60.0
    port: Port = 8610
    symbol: Symbol | None = None
    seed: int = 7


class PaperExchangeSection(Section):
    """What `qmtl paper-exchange` serves; speed 1 and candles shifted to end now suit outside clients."""

    host: Literal["127.0.0.1", "::1", "localhost"] = "127.0.0.1"
    port: Port = 8610
    data: LocalPath | None = None
    funding: LocalPath | None = None
    symbol: Symbol = "BTCUSDT"
    speed: Factor = 1.0
    seed: int = 7
    wallet: Money = Decimal(10_000)
    api_key: SecretStr = SecretStr("paper")
    secret: SecretStr = SecretStr("paper")


class ConnectorsSection(Section):
    """Brokers, feeds and gateway of the Runner's order path."""

    execution_domain: Domain | None = None
    broker_url: Url | None = None
    broker_token: SecretStr | None = None
    ws_token: SecretStr | None = None
    gateway_token: SecretStr | None = None
    trade_max_retries: Annotated[int, Field(ge=0, le=10)] = 3
    trade_backoff: Annotated[float, Field(ge=0, le=60)] = 0.1
    ws_url: WsUrl | None = None
    gateway_url: Url | None = None
    world_id: str | None = None
    order_journal: LocalPath = Path("~/.qmtl/orders.db")
    strategy_id: str | None = None
    worker_id: str | None = None
    seamless_worker_id: str | None = None
    ccxt_apikey: SecretStr | None = None
    ccxt_secret: SecretStr | None = None
    ccxt_base_url: Url | None = None
    ccxt_rate_limiter_redis: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://")] | None = None

    @field_validator("execution_domain", mode="before")
    @classmethod
    def _paper_is_dryrun(cls, value: Any) -> Any:
        return "dryrun" if value == "paper" else value

    @model_validator(mode="after")
    def _encrypted_when_live(self) -> "ConnectorsSection":
        if self.execution_domain == "live":
            for name, scheme in (("broker_url", "https"), ("ws_url", "wss")):
                url = getattr(self, name)
                if url and not url.startswith(f"{scheme}://") and not is_loopback(url):
                    raise ValueError(f"{name} must be {scheme} off loopback in the live domain")
        return self


class SeamlessSection(Section):
    """History: where rows and artifacts are kept, who coordinates, which presets hold."""

    coordinator_url: Url | None = None
    coordinator_token: SecretStr | None = None
    questdb_dsn: SecretStr | None = None
    questdb_http: Url | None = None
    store_dir: LocalPath = Path("~/.qmtl_seamless_store")
    artifacts_enabled: bool = False
    artifact_dir: LocalPath = Path("~/.qmtl_seamless_artifacts")
    publish_fingerprint: bool = True
    sla_preset: str = "baseline"
    conformance_preset: str = "strict-blocking"
    presets_file: LocalPath | None = None
    stabilization_bars: Annotated[int, Field(ge=0)] = 2
    cache_ttl_ms: Annotated[int, Field(ge=0)] = 60_000
    metrics_max_series: Annotated[int, Field(ge=1)] = 500


class AuthSection(Section):
    """Who may call a service: `mode` is jwt in the prod profile, else none; `audience` the section's name."""

    mode: Literal["none", "jwt"] | None = None
    issuer: Annotated[str, Field(min_length=1)] | None = None
    audience: Annotated[str, Field(min_length=1)] | None = None
    jwks: Annotated[str, Field(min_length=1)] | None = None


class CoordinatorBindSection(Section):
    """Where `qmtl coordinator` listens."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Port = 8090


class CoordinatorSection(Section):
    """What `qmtl coordinator` serves; the store is a DSN, and a DSN may hold a password."""

    bind: CoordinatorBindSection = Field(default_factory=CoordinatorBindSection)
    store: SecretStr = SecretStr("sqlite:///./coordinator.db")
    auth: AuthSection = Field(default_factory=AuthSection)


class RuntimeSection(Section):
    """Constants of `qmtl.runtime.sdk.runtime`; names ending in _test hold in test mode."""

    http_timeout_seconds: Seconds = 2.0
    http_timeout_seconds_test: Seconds = 1.5
    ws_recv_timeout_seconds: Seconds = 30.0
    ws_recv_timeout_seconds_test: Seconds = 5.0
    ws_max_total_time_seconds: Seconds | None = None
    ws_max_total_time_seconds_test: Seconds | None = 5.0
    poll_interval_seconds: Seconds = 10.0
    poll_interval_seconds_test: Seconds = 2.0
    test_mode: bool = False
    fixed_now: datetime | None = None


class JournalSection(Section):
    """Where an account's journal lives, and how long copies are kept."""

    directory: LocalPath = Path("~/.qmtl")
    path: LocalPath | None = None
    retention_days: Annotated[int, Field(ge=1)] = 400
    backup_directory: LocalPath | None = None
    backup_every_s: Seconds = 3_600.0
    backup_keep: Annotated[int, Field(ge=1)] = 48


class ControlSection(Section):
    """The control socket and the loopback port (0 picks a free one)."""

    socket: LocalPath | None = None
    port: Port = 0
    token_file: LocalPath | None = None


class LogsSection(Section):
    """How much is logged and where; without a file, to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "text"] = "json"
    path: LocalPath | None = None


class Settings(Section):
    """Everything qmtl.yml, the environment and the defaults say, once checked."""

    profile: Literal["dev", "prod"] = "dev"
    account: AccountSection = Field(default_factory=AccountSection)
    risk: RiskSection = Field(default_factory=RiskSection)
    trader: TraderSection = Field(default_factory=TraderSection)
    backtest: BacktestSection = Field(default_factory=BacktestSection)
    sweep: SweepSection = Field(default_factory=SweepSection)
    demo: DemoSection = Field(default_factory=DemoSection)
    paper_exchange: PaperExchangeSection = Field(default_factory=PaperExchangeSection)
    connectors: ConnectorsSection = Field(default_factory=ConnectorsSection)
    seamless: SeamlessSection = Field(default_factory=SeamlessSection)
    coordinator: CoordinatorSection = Field(default_factory=CoordinatorSection)
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)
    journal: JournalSection = Field(default_factory=JournalSection)
    control: ControlSection = Field(default_factory=ControlSection)
    logs: LogsSection = Field(default_factory=LogsSection)


def is_loopback(url: str) -> bool:
    """Tell whether the URL's host is this machine's loopback."""
    host = url.partition("://")[2].split("/")[0].rpartition("@")[2]
    host = host.split("]")[0].strip("[") if host.startswith("[") else host.split(":")[0]
    return host in {"localhost", "::1"} or host.startswith("127.")
