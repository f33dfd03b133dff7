"""Refuses an option that takes one value and is given twice. click would silently drop the first value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click

__all__ = ["refuse_repeated"]


def refuse_repeated(command: click.Command, context: click.Context, arguments: Sequence[str]) -> None:
    """Raises click.BadOptionUsage if the arguments give an option twice and the command would use one value only.

    `arguments` are the command's own, and have been parsed before. Options in front of a subcommand's name belong to
    the group: in `credmesh --profile a keys --profile b` the second overrides the first, as an alias may need.
    """
    _, _, order = command.make_parser(context).parse_args(list(arguments))
    for parameter, times in Counter(order).items():
        if times > 1 and isinstance(parameter, click.Option) and _uses_last_value_only(parameter):
            name = "/".join([*parameter.opts, *parameter.secondary_opts])
            raise click.BadOptionUsage(
                parameter.opts[0], f"{name} is given {times} times, but takes one value; give it once.", context
            )


def _uses_last_value_only(option: click.Option) -> bool:
    """Whether the last value replaces the others. A flag without an opposite means the same when it is repeated."""
    return not (option.multiple or option.count or (option.is_flag and not option.secondary_opts))
