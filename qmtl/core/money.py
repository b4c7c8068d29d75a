"""Exact decimal numbers: entry, rounding to venue steps, printing."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

ZERO = Decimal(0)
ONE = Decimal(1)
CENT_OF_SATOSHI = Decimal("1E-12")
"""Cost shares of a partly closed position are kept to this step."""


def parse_decimal(value: object, name: str) -> Decimal:
    """Return `value` as an exact finite Decimal; floats enter as Decimal(str(x)).

    Raises ValueError naming `name` for booleans, text that is no number, NaN and infinities.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        message = f"{name}: expected a number, got {value!r}"
        raise ValueError(message)
    try:
        number = value if isinstance(value, Decimal) else Decimal(str(value))
    except ArithmeticError:
        message = f"{name}: expected a number, got {value!r}"
        raise ValueError(message) from None
    if not number.is_finite():
        message = f"{name}: expected a finite number, got {value!r}"
        raise ValueError(message)
    return number


def floor_to_step(value: Decimal, step: Decimal) -> Decimal:
    """Round `value` toward minus infinity to a multiple of `step` (> 0)."""
    return (value / step).to_integral_value(ROUND_FLOOR) * step


def ceil_to_step(value: Decimal, step: Decimal) -> Decimal:
    """Round `value` toward plus infinity to a multiple of `step` (> 0)."""
    return (value / step).to_integral_value(ROUND_CEILING) * step


def is_on_step(value: Decimal, step: Decimal) -> bool:
    """Tell whether `value` is a whole multiple of `step`."""
    return value % step == 0


def dump_decimal(value: Decimal) -> str:
    """Print without exponent and without trailing zeros: Decimal('1.500') -> '1.5'."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text
