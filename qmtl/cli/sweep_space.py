"""What -p of `qmtl sweep` says: which parameters vary and over which values."""

from collections.abc import Sequence
from math import prod
from typing import Any

from qmtl.cli.invocation import BadInputError
from qmtl.runtime.sdk.param import Param, check_names, steps

MOST_VALUES = 10_000
MOST_SETS = 1_000_000

Space = dict[str, list[Any]]


def parse_space(cls: type, given: Sequence[str]) -> tuple[Space, dict[str, Any]]:
    """Return the values to try by parameter, and the parameters that are fixed to one.

    NAME takes the range written in the class, NAME=LOW:HIGH:STEP another, NAME=A,B,C these, NAME=VALUE fixes
    it. Without any word every parameter with a range in the class varies. BadInputError or ParameterError
    names the word.
    """
    known: dict[str, Param] = cls.params()  # type: ignore[attr-defined]
    words = list(given) or [name for name, param in known.items() if len(param.values()) > 1]
    space: Space = {}
    fixed: dict[str, Any] = {}
    for word in words:
        name, separator, text = (part.strip() for part in word.partition("="))
        check_names(cls, {name: text})
        if name in space or name in fixed:
            raise BadInputError(f"--param {word}: {name} is given twice")
        values = parse_values(known[name], text, word) if separator else known[name].values()
        if not separator and len(values) < 2:
            raise BadInputError(
                f"--param {name}: the class gives no low, high and step; write {name}=LOW:HIGH:STEP"
            )
        if len(values) > 1:
            space[name] = values
        else:
            fixed[name] = values[0]
    if not space:
        known_names = ", ".join(known) or "it has none"
        raise BadInputError(f"nothing to sweep: give --param NAME=LOW:HIGH:STEP ({known_names})")
    count = prod(len(values) for values in space.values())
    if count > MOST_SETS:
        raise BadInputError(f"{count:,} sets are too many (at most {MOST_SETS:,}); use larger steps")
    return space, fixed


def parse_values(param: Param, text: str, word: str) -> list[Any]:
    """Return the values of LOW:HIGH:STEP, of A,B,C or of one VALUE, in the parameter's type."""
    parts = text.split(":")
    if len(parts) == 3:
        try:
            low, high, step = map(float, parts)
        except ValueError:
            raise BadInputError(f"--param {word}: expected numbers LOW:HIGH:STEP") from None
        if step > 0 and (high - low) / step > MOST_VALUES:
            raise BadInputError(f"--param {word}: more than {MOST_VALUES:,} values")
        return steps(param, low, high, step)
    if len(parts) != 1 or not text:
        raise BadInputError(f"--param {word}: expected NAME=LOW:HIGH:STEP, NAME=A,B,C or NAME=VALUE")
    values = [param.parse(one.strip()) for one in text.split(",")]
    return list(dict.fromkeys(values))
