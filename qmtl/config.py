"""The one loader of configuration: environment over qmtl.yml over defaults; nothing else reads either."""

import difflib
import hashlib
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from qmtl.settings import Settings

FILE_NAMES = ("qmtl.yml", "qmtl.yaml")
PREFIX = "QMTL_"
ALIASES = {
    "CCXT_APIKEY": "connectors.ccxt_apikey",
    "CCXT_SECRET": "connectors.ccxt_secret",
    "QMTL_CCXT_RATE_LIMITER_REDIS": "connectors.ccxt_rate_limiter_redis",
    "QMTL_PROFILE": "profile",
}
"""Flat names of the published pages, besides QMTL_<SECTION>__<KEY>."""
FOREIGN = frozenset({"QMTL_TEST_DATA", "QMTL_CAMPAIGN", "QMTL_CONFIG"})
"""QMTL_ names that are no settings: the test suite's own, and the file to load."""
DEFAULT = "default"

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "decimal_parsing": "a number",
    "decimal_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "datetime_parsing": "a time, such as 2026-01-02T03:04:05Z",
    "datetime_from_date_parsing": "a time, such as 2026-01-02T03:04:05Z",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text matching {pattern}",
}


class ConfigError(ValueError):
    """Configuration is wrong; the message is one line naming where, which key, what was found and allowed."""


@dataclass(frozen=True)
class Override:
    """A value given on the command line: it beats every other source."""

    key: str
    value: object
    source: str


@dataclass(frozen=True)
class Loaded:
    """Settings with the source of every value: an environment name, a file, an option or `default`."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None

    def source(self, key: str) -> str:
        """Return where the value of dotted `key` came from."""
        return self.sources.get(key, DEFAULT)

    def rows(self) -> Iterator[tuple[str, object, str]]:
        """Yield (key, value, source) of every setting; secrets are redacted."""
        for key, _ in walk_keys(Settings):
            value: object = self.settings
            for part in key.split("."):
                value = getattr(value, part)
            yield key, _redact(value), self.source(key)


def load(path: str | Path | None = None) -> Settings:
    """Return the effective settings; without `path`, of qmtl.yml or qmtl.yaml in the working directory.

    Raises ConfigError naming file, key, what was found, what is expected and the nearest key.
    """
    return load_with_sources(path).settings


def load_with_sources(
    path: str | Path | None = None,
    *,
    overrides: tuple[Override, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Load as `load` does, keeping where every value came from."""
    environment = os.environ if environment is None else environment
    file = _find_file(path if path is not None else environment.get("QMTL_CONFIG"))
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file is not None:
        _fill(tree, sources, "", _read_yaml(file), str(file))
    for name, key, value in _read_environment(environment):
        _put(tree, sources, key, value, name)
    for override in overrides:
        _put(tree, sources, override.key, override.value, override.source)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error.errors(include_url=False), tree, sources)) from None
    return Loaded(settings, sources, file)


def reveal(secret: SecretStr) -> str:
    """Return the secret itself, reading the file of a `file:PATH` value each time.

    Raises ConfigError naming the file when it cannot be read or is empty.
    """
    text = secret.get_secret_value()
    if not text.startswith("file:"):
        return text
    path = Path(text.removeprefix("file:")).expanduser()
    return _read_text(path, "secret file").strip()


def read_named(*names: str, environment: Mapping[str, str] | None = None) -> tuple[str, ...] | None:
    """Return the values of environment variables that a published page names, None unless all are set."""
    environment = os.environ if environment is None else environment
    values = tuple(environment.get(name, "").strip() for name in names)
    return values if all(values) else None


def account_keys(settings: Settings) -> tuple[str, str] | None:
    """Return (API key, secret) of the account, None when none are configured.

    A key file holds the two on lines of their own, or as `api_key:` and `secret:`.
    Raises ConfigError naming a missing or malformed file.
    """
    account = settings.account
    if account.key_file is not None:
        return _read_key_file(account.key_file)
    if account.api_key is None or account.secret is None:
        return None
    return reveal(account.api_key), reveal(account.secret)


def account_name(settings: Settings) -> str:
    """Return the name people type for the account: the configured one, else venue and key fingerprint."""
    account = settings.account
    if account.name:
        return account.name
    keys = account_keys(settings)
    if keys is None:
        return account.venue
    return f"{account.venue}-{hashlib.sha256(keys[0].encode()).hexdigest()[:4]}"


def walk_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key of the settings with its field."""
    for name, field in model.model_fields.items():
        inner = _section_of(field)
        if inner is None:
            yield f"{prefix}{name}", field
        else:
            yield from walk_keys(inner, f"{prefix}{name}.")


# --- sources --------------------------------------------------------------------------------------


def _find_file(path: str | Path | None) -> Path | None:
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ConfigError(f"{file}: no such configuration file")
        return file
    return next((Path(name) for name in FILE_NAMES if Path(name).is_file()), None)


def _read_text(path: Path, what: str) -> str:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read this {what}: {reason}") from None
    if not text.strip():
        raise ConfigError(f"{path}: this {what} is empty")
    return text


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{file}: {where}{problem}") from None
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise ConfigError(f"{file}: expected sections of keys, found {type(body).__name__}")
    return body


def _read_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, dotted key, value); aliases first, so that the full name wins."""
    for name, key in ALIASES.items():
        if name in environment:
            yield name, key, environment[name]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in ALIASES and name not in FOREIGN:
            yield name, name.removeprefix(PREFIX).lower().replace("__", "."), environment[name]


def _fill(tree: dict[str, Any], sources: dict[str, str], prefix: str, body: Any, source: str) -> None:
    for name, value in body.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            tree_below = tree.setdefault(str(name), {})
            _fill(tree_below, sources, f"{key}.", value, source)
        elif value is None and _is_section(key):
            continue  # `risk:` with every key below it commented out
        else:
            tree[str(name)] = value
            sources[key] = source


def _put(tree: dict[str, Any], sources: dict[str, str], key: str, value: object, source: str) -> None:
    *parents, last = key.split(".")
    place = tree
    for depth, name in enumerate(parents):
        below = place.setdefault(name, {})
        if not isinstance(below, dict):
            where = ".".join(parents[: depth + 1])
            raise ConfigError(f"{sources.get(where, source)}: {where}: expected a section of keys")
        place = below
    place[last] = value
    sources[key] = source


# --- messages -------------------------------------------------------------------------------------


def _explain(errors: list[ErrorDetails], tree: dict[str, Any], sources: Mapping[str, str]) -> str:
    # An unknown key often causes the other complaints, so it is told first.
    errors = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    where = sources.get(key) or next((s for k, s in sources.items() if k.startswith(f"{key}.")), "settings")
    # On the command line the option is the key.
    head = where if where.startswith("--") else f"{where}: {key}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{head}: unknown key; {_suggest(key)}{more}"
    if first["type"] == "value_error":
        text = str(first["msg"]).removeprefix("Value error, ")
        found = "" if _is_section(key) else f"found {_show(key, tree)}; "
        return f"{head}: {found}{text}{more}"
    template = _EXPECTED.get(first["type"])
    bounds = {name: _short(value) for name, value in first.get("ctx", {}).items()}
    expected = template.format(**bounds) if template else first["msg"]
    return f"{head}: found {_show(key, tree)}, expected {expected}{more}"


def _show(key: str, tree: dict[str, Any]) -> str:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    field = dict(walk_keys(Settings)).get(key)
    if field is not None and _is_secret(field.annotation):
        return "a value that is not shown"
    return str(_short(value)) if isinstance(value, float) else repr(value)


def _short(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value


def _suggest(key: str) -> str:
    known = [name for name, _ in walk_keys(Settings)]
    sections = list(Settings.model_fields)
    section, _, last = key.rpartition(".")
    same_name = [name for name in known if name.rpartition(".")[2] == last]
    near = difflib.get_close_matches(key, known + sections, n=1, cutoff=0.75)
    near = near or same_name or difflib.get_close_matches(key, known + sections, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
    return f"known: {', '.join(siblings if section and siblings else sections)}"


def _is_section(key: str) -> bool:
    return any(name.startswith(f"{key}.") for name, _ in walk_keys(Settings))


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _is_secret(annotation: Any) -> bool:
    if get_origin(annotation) in {Union, types.UnionType}:
        return any(_is_secret(part) for part in get_args(annotation))
    return annotation is SecretStr


def _redact(value: object) -> object:
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return text if text.startswith(("file:", "sqlite:")) else "**********"
    return value


def _read_key_file(path: Path) -> tuple[str, str]:
    text = _read_text(path, "key file")
    try:
        body = yaml.safe_load(text)
    except yaml.YAMLError:
        body = None
    if isinstance(body, dict) and {"api_key", "secret"} <= body.keys():
        return str(body["api_key"]).strip(), str(body["secret"]).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 2 or any(":" in line or " " in line for line in lines):
        raise ConfigError(f"{path}: expected api_key: and secret:, or the two on lines of their own")
    return lines[0], lines[1]
