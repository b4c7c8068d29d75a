"""Finding the strategy a session names."""

import importlib
from collections.abc import Callable, Mapping
from typing import cast

from qmtl.core.event import SessionSetup
from qmtl.engine.strategy import StrategyPort


class StrategyNotFoundError(ValueError):
    """No such module or class, or the class cannot be made from the session's parameters."""


def load_strategy(setup: SessionSetup) -> StrategyPort:
    """Make the strategy `setup.strategy` (`module:Class`) by its `from_params(setup.params)`.

    Raises StrategyNotFoundError naming the module or class and what is wrong with it.
    """
    module_name, _, class_name = setup.strategy.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f"strategy {setup.strategy}: {error}"
        raise StrategyNotFoundError(message) from error
    made = getattr(module, class_name, None)
    factory = getattr(made, "from_params", None)
    if factory is None:
        wanted = f"no class {class_name!r} with from_params"
        message = f"strategy {setup.strategy}: {module_name} has {wanted}"
        raise StrategyNotFoundError(message)
    return cast("Callable[[Mapping[str, object]], StrategyPort]", factory)(setup.params)
