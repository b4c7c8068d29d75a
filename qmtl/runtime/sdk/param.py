"""Parameters of a strategy: a default, what a sweep tries, and what they are for."""

import difflib
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Literal, overload

Value = int | float | bool | str

_TRUE, _FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})


class StrategyError(ValueError):
    """A strategy is wrong as it is written or as it is asked to run; the message names what and where."""


class ParameterError(StrategyError):
    """A parameter does not exist or cannot take the value."""


class Param:
    """One parameter: `self.window` is its value, in the type of `default` (int, float, bool, str).

    `low`, `high`, `step` are what a sweep tries, both ends included; other values may be given. `role` "stop"
    or "target" makes it a fraction of the entry price at which an order rests; 0 means no such order.
    """

    def __init__(
        self,
        default: Value,
        low: float | None = None,
        high: float | None = None,
        step: float | None = None,
        *,
        role: Literal["stop", "target"] | None = None,
    ) -> None:
        self.name = ""
        self.low, self.high, self.step, self.role = low, high, step, role
        if role not in {None, "stop", "target"}:
            raise ParameterError(f'role: expected "stop" or "target", got {role!r}')
        self.default = default
        self._kind = type(default)
        if self._kind not in {int, float, bool, str}:
            raise ParameterError(f"default: expected a number, true, false or text, got {default!r}")
        if role is not None and self._kind is int:
            self._kind = float
        self.default = self.parse(default)
        bounds = (low, high, step)
        if any(bound is not None for bound in bounds):
            self._check_bounds(bounds)

    def _check_bounds(self, bounds: Iterable[float | None]) -> None:
        if self._kind not in {int, float}:
            raise ParameterError("low, high, step: only numbers have them")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ParameterError(f"low, high: expected low <= high, got {self.low}, {self.high}")
        if self.step is not None and not self.step > 0:
            raise ParameterError(f"step: expected more than 0, got {self.step}")
        for bound in bounds:
            if bound is not None and not isfinite(bound):
                raise ParameterError(f"low, high, step: expected finite numbers, got {bound}")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "Param": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Any: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        # Past `__getattribute__`: a sweep takes whoever asks for `__dict__` to read every parameter.
        return object.__getattribute__(instance, "__dict__").get(self.name, self.default)

    def __set__(self, instance: object, value: Value) -> None:
        instance.__dict__[self.name] = self.parse(value)

    def parse(self, value: Value) -> Value:
        """Return `value`, which may be text, in the parameter's type; ParameterError says what is wrong."""
        if self._kind is str:
            return str(value)
        if self._kind is bool:
            return self._parse_bool(value)
        number = self._parse_number(value)
        if self._kind is int:
            if number != int(number):
                raise ParameterError(f"{self.name}: expected a whole number, got {value!r}")
            return int(number)
        if self.role is not None and not 0 <= number < 1:
            raise ParameterError(f"{self.name}: expected a fraction of the entry price, got {value!r}")
        return number

    def _parse_bool(self, value: Value) -> bool:
        word = str(value).strip().casefold()
        if word not in _TRUE | _FALSE:
            raise ParameterError(f"{self.name}: expected true or false, got {value!r}")
        return word in _TRUE

    def _parse_number(self, value: Value) -> float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except ValueError:
            raise ParameterError(f"{self.name}: expected a number, got {value!r}") from None
        if not isfinite(number):
            raise ParameterError(f"{self.name}: expected a finite number, got {value!r}")
        return number

    def values(self) -> list[Value]:
        """Return what a sweep tries: low to high by step; the default alone where one of them is missing."""
        if self.low is None or self.high is None or self.step is None:
            return [self.default]
        return steps(self, self.low, self.high, self.step)


def steps(param: Param, low: float, high: float, step: float) -> list[Value]:
    """Return low, low + step, … up to and with high, in the type of `param`."""
    if not (step > 0 and low <= high) or not isfinite(high - low):
        raise ParameterError(
            f"{param.name}: expected low <= high and step > 0, got {low:g}:{high:g}:{step:g}"
        )
    # Multiplied, not added up: 0.5 + 3 * 0.1 stays as near to 0.8 as a float can be.
    count = int((high - low) / step + 1e-9) + 1
    return [param.parse(round(low + number * step, 12)) for number in range(count)]


def find_params(cls: type) -> dict[str, Param]:
    """Return the parameters of a class in the order they were written, inherited ones first."""
    found: dict[str, Param] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Param):
                found[name] = value
            else:
                found.pop(name, None)
    return found


def check_names(cls: type, given: Mapping[str, Any]) -> None:
    """Raise ParameterError for the first name that is no parameter of `cls`, with the nearest that is."""
    known = list(find_params(cls))
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        listed = f" ({', '.join(known)})" if known else ""
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ParameterError(f"{cls.__name__} has no parameter {name}{listed}{hint}")
