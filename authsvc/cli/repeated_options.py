"""Options that are given twice and take one value: refused, since the first would be dropped without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click

__all__ = ["refuse_repeated"]


def refuse_repeated(command: click.Command, context: click.Context, arguments: Sequence[str]) -> None:
    """Raises click.BadOptionUsage for an option of the command's that is given twice, if that makes a difference.

    `arguments` are those that the command was given, and parse. What stands before the command's name is another
    command's: `credmesh --profile a keys --profile b` is b's, so that an alias can hold an option and be overridden.
    """
    _, _, order = command.make_parser(context).parse_args(list(arguments))
    for parameter, times in Counter(order).items():
        if times > 1 and isinstance(parameter, click.Option) and _takes_one(parameter):
            name = "/".join([*parameter.opts, *parameter.secondary_opts])
            raise click.BadOptionUsage(
                parameter.opts[0], f"{name} is given {times} times, and only one would count; give it once.", context
            )


def _takes_one(option: click.Option) -> bool:
    """Whether the last of several takes the place of the others. A flag that can only be set is the same twice."""
    return not (option.multiple or option.count or (option.is_flag and not option.secondary_opts))
