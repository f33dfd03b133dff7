"""What all commands share: the options --profile, --timeout, --as and --json, and how a command reports a failure."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.profile import Profile, load_profile
from authsvc.cli.repeated_options import refuse_repeated
from authsvc.cli.terminal.output import Output

if TYPE_CHECKING:
    from authsvc.cli.mesh.connection import Connection

__all__ = ["Invocation", "MeshCommand", "MeshGroup", "confirm", "mesh_options", "pass_invocation"]

_DEFAULT_TIMEOUT_SECONDS: Final = 10.0
_WAITING_TIMEOUT_SECONDS: Final = 60.0
"""For a call that waits for nodes. The auth service answers earlier, with what is known by then."""


@dataclass(kw_only=True)
class Invocation:
    """One run of the command: its options, and what follows from them.

    given_timeout  seconds for one call; None without --timeout
    account        "client" (the profile's), "user" (of `credmesh login`), or "" for the command's own choice
    """

    profile_path: Path | None = None
    given_timeout: float | None = None
    as_json: bool = False
    account: str = ""
    _profile: Profile | None = field(default=None, repr=False)

    @property
    def profile(self) -> Profile:
        """The profile, which may be empty. Failure if the file cannot be used."""
        if self._profile is None:
            self._profile = load_profile(self.profile_path)
        return self._profile

    @property
    def output(self) -> Output:
        """Writes the answer."""
        return Output(as_json=self.as_json)

    @property
    def timeout(self) -> float:
        """Seconds for one call."""
        return _DEFAULT_TIMEOUT_SECONDS if self.given_timeout is None else self.given_timeout

    def call_timeout(self, *, waits_for_nodes: bool) -> float:
        """Seconds for a call: longer if it waits for nodes, unless --timeout was given."""
        return _WAITING_TIMEOUT_SECONDS if waits_for_nodes and self.given_timeout is None else self.timeout

    def connect(self, *, preferred: str = "client") -> Connection:
        """Opens a connection that is signed in as the client or the user; `preferred` counts if --as is not given."""
        from authsvc.cli.mesh.sign_in import connect_signed_in

        return connect_signed_in(self.profile, timeout=self.timeout, account=self.account, preferred=preferred)

    def connect_anonymously(self) -> Connection:
        """Opens a connection for calls that need no credential."""
        from authsvc.cli.mesh.connection import Connection

        return Connection(self.profile, timeout=self.timeout)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def _set_on_invocation(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        invocation = context.ensure_object(Invocation)
        if value is not None:  # an option that is absent here may have been given before the command's name
            setattr(invocation, name, value)

    return callback


def mesh_options(*, root: bool = False) -> list[click.Parameter]:
    """The options of every command. They are accepted before the command's name (`root`) and after it."""
    return [
        click.Option(
            ["--profile"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            envvar="CREDMESH_PROFILE" if root else None,
            expose_value=False,
            is_eager=True,
            callback=_set_on_invocation("profile_path"),
            help="The profile of the mesh to use.  [default: CREDMESH_PROFILE, ./.mesh/profile.json]",
        ),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(min=0.1, max=3600),
            metavar="SECONDS",
            expose_value=False,
            callback=_set_on_invocation("given_timeout"),
            help=f"How long one call may take.  [default: {_DEFAULT_TIMEOUT_SECONDS:g}]",
        ),
        click.Option(
            ["--as"],
            type=click.Choice(["client", "user"]),
            expose_value=False,
            callback=_set_on_invocation("account"),
            help="Act as the profile's client, or as the user who signed in.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_set_on_invocation("as_json"),
            help="Answer in JSON, for scripts; errors too.",
        ),
    ]


class MeshCommand(click.Command):
    """A command with the options above. Every error in it ends in a message, never in a traceback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(mesh_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments. Refuses an option with one value that is given twice."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        refuse_repeated(self, ctx, given)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except Failure as failure:
            failure.as_json = ctx.ensure_object(Invocation).as_json
            raise
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the edge of the program: no caller could report it better
            if os.environ.get("CREDMESH_DEBUG") or (isinstance(error, OSError) and error.errno == errno.EPIPE):
                raise
            unexpected = _unexpected(error)
            unexpected.as_json = ctx.ensure_object(Invocation).as_json
            raise unexpected from None


def _unexpected(error: Exception) -> Failure:
    from interceptors.errors import CredmeshError

    if isinstance(error, CredmeshError):
        return Failure(str(error))  # raised on purpose; its text says what to do
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", next_step="Check the path and the file's permissions.")
    # The text of an unknown exception may quote anything, even a credential.
    return Failure(
        f"unexpected {type(error).__name__}: this is a bug in the command",
        next_step="CREDMESH_DEBUG=1 shows a traceback. Report it together with `credmesh --version`.",
    )


class MeshGroup(click.Group):
    """A group of commands with the options above."""

    command_class = MeshCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments before the command's name. Refuses an option with one value that is given twice."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        refuse_repeated(self, ctx, given)
        return rest


def confirm(question: str, *, yes: bool) -> None:
    """Asks before an action that cannot be undone, unless --yes was given. Failure without a terminal to ask on."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(
            "this cannot be undone, and there is no terminal to ask on",
            next_step="Add --yes to do it without a question.",
            code=ExitCode.USAGE,
        )
    click.confirm(question, abort=True, err=True)
