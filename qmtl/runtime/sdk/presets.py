"""SLA policies and conformance presets by name: the shipped ones, and those of `seamless.presets_file`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from qmtl.runtime.sdk.conformance import CONFORMANCE_PRESETS, ConformancePreset
from qmtl.runtime.sdk.sla import SLA_PRESETS, SLAPolicy, unknown_preset

_Made = TypeVar("_Made")
_SECTIONS = ("sla_presets", "conformance_presets")
_SLA_FIELDS = [one.name for one in fields(SLAPolicy)]
_CONFORMANCE_FIELDS = ["block", "partial_ok"]


@dataclass(frozen=True)
class Presets:
    """Named policies; a file's replace the shipped ones of the same name."""

    sla: Mapping[str, SLAPolicy] = field(default_factory=lambda: dict(SLA_PRESETS))
    conformance: Mapping[str, ConformancePreset] = field(default_factory=lambda: dict(CONFORMANCE_PRESETS))

    def sla_policy(self, name: str | None = None) -> SLAPolicy:
        """Return a policy, `baseline` without a name; ConfigError lists the known."""
        return _pick("seamless.sla_preset", self.sla, name or "baseline")

    def conformance_preset(self, name: str | None = None) -> ConformancePreset:
        """Return a preset, `strict-blocking` without a name; ConfigError lists the known."""
        return _pick("seamless.conformance_preset", self.conformance, name or "strict-blocking")


def load_presets(path: Path | None = None) -> Presets:
    """Return the shipped presets and those of a YAML file with `sla_presets` and `conformance_presets`.

    An SLA preset takes the fields of SLAPolicy, a conformance preset `block` (a list of flags) and
    `partial_ok`. ConfigError names file, preset and field.
    """
    if path is None:
        return Presets()
    # pydantic loads as long as polars does; nothing but an error needs it here.
    from qmtl.config import ConfigError

    try:
        body = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: expected the keys {' and '.join(_SECTIONS)}")
    for key in body:
        if key not in _SECTIONS:
            raise ConfigError(f"{path}: {unknown_preset('key', key, list(_SECTIONS))}")
    sla = _section(path, body, "sla_presets", _SLA_FIELDS, lambda given: SLAPolicy(**given))
    conformance = _section(path, body, "conformance_presets", _CONFORMANCE_FIELDS, _conformance)
    return Presets({**SLA_PRESETS, **sla}, {**CONFORMANCE_PRESETS, **conformance})


def _pick(key: str, known: Mapping[str, _Made], name: str) -> _Made:
    if name not in known:
        from qmtl.config import ConfigError

        raise ConfigError(unknown_preset(key, name, list(known)))
    return known[name]


def _section(
    path: Path, body: dict[str, Any], key: str, names: list[str], make: Callable[[dict[str, Any]], _Made]
) -> dict[str, _Made]:
    from qmtl.config import ConfigError

    section = body.get(key) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {key}: expected names with their fields")
    made = {}
    for preset, given in section.items():
        where = f"{path}: {key}.{preset}"
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: expected fields, of {', '.join(names)}")
        for name in given:
            if name not in names:
                raise ConfigError(f"{where}: {unknown_preset('field', name, names)}")
        try:
            made[str(preset)] = make(given)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return made


def _conformance(given: dict[str, Any]) -> ConformancePreset:
    block, partial_ok = given.get("block"), given.get("partial_ok", False)
    if not isinstance(partial_ok, bool):
        raise ValueError(f"partial_ok: expected true or false, got {partial_ok!r}")
    if block is None:
        return ConformancePreset(partial_ok=partial_ok)
    if not isinstance(block, list):
        raise ValueError("block: expected a list of flags")
    return ConformancePreset(frozenset(map(str, block)), partial_ok)
