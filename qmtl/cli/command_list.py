"""How a group of commands is listed in its help."""

from typing import Any

from typer.core import TyperGroup

_LONGEST = 1_000


class CommandList(TyperGroup):
    """Lists its commands with the whole first sentence of each, wrapped where typer would cut it short."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        known = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(_LONGEST)) for name, one in known if one])
