"""The strategy a command line means: its reference, its parameters, its size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.invocation import UNSET, BadInputError

if TYPE_CHECKING:
    from qmtl.runtime.sdk.strategy import Strategy
    from qmtl.runtime.sdk.strategy_file import StrategySource

StrategyArgument = Annotated[str, typer.Argument(help="file.py, file.py:Class or module:Class.")]
ParamOption = Annotated[
    list[str] | None, typer.Option("--param", "-p", help="NAME=VALUE; may be given again.")
]
ParamsFile = Annotated[
    Path | None, typer.Option("--params", help="A file of parameters, as `qmtl sweep` saves it.")
]


def open_strategy(
    reference: str, params: Sequence[str] | None = None, params_file: Path | None = None
) -> "tuple[StrategySource, Strategy]":
    """Import a strategy and set its parameters; StrategyError names file, line or parameter."""
    from qmtl.runtime.sdk.strategy import make_strategy
    from qmtl.runtime.sdk.strategy_file import load_source, naming_faults

    source = load_source(reference)
    values = {**read_params(params_file), **parse_params(params or ())}
    with naming_faults(source):
        return source, make_strategy(source.cls, values)


def parse_params(given: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE words as a mapping of text."""
    values = {}
    for word in given:
        name, separator, value = word.partition("=")
        if not separator or not name.strip() or not value.strip():
            raise BadInputError(f"--param {word}: expected NAME=VALUE")
        values[name.strip()] = value.strip()
    return values


def read_params(path: Path | None) -> dict[str, Any]:
    """Return the parameters of a YAML file: a mapping, or one below the key `params`."""
    import yaml

    if path is None:
        return {}
    if not path.is_file():
        raise BadInputError(f"{path}: no such file of parameters")
    try:
        body = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    found = body.get("params", body) if isinstance(body, Mapping) else body
    if not isinstance(found, Mapping) or any(isinstance(value, Mapping | list) for value in found.values()):
        raise BadInputError(f"{path}: expected parameters as NAME: VALUE")
    return {str(name): value for name, value in found.items()}


def size_option(size: str | None) -> dict[str, tuple[str, object]]:
    """Map --size (0.01, 500 USDT, 1%) to the key its unit means; an option replaces a size of the file."""
    if size is None:
        return {}
    text = size.strip()
    names = ["quantity", "notional", "size_pct", "volatility_target"]
    chosen = "size_pct" if text.endswith("%") else "notional" if " " in text else "quantity"
    others: dict[str, tuple[str, object]] = {
        f"--size {name}": (f"trader.{name}", UNSET) for name in names if name != chosen
    }
    return {**others, "--size": (f"trader.{chosen}", text)}
