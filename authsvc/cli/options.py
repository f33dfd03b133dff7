"""What all commands share: the options about the mesh, and how a command that fails says so."""

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

__all__ = ["DEFAULT_TIMEOUT", "Invocation", "MeshCommand", "MeshGroup", "confirm", "mesh_options", "pass_invocation"]

DEFAULT_TIMEOUT: Final = 10.0
PATIENT_TIMEOUT: Final = 60.0
"""Seconds for a call that waits for nodes. It ends by itself before that, with what is known."""


@dataclass(kw_only=True)
class Invocation:
    """One run of the command: what its options said, and what follows from them.

    timeout   seconds for one call
    speak_as  "client" (the profile's), "user" (who signed in with `credmesh login`), or "" for the command's own choice
    """

    profile_path: Path | None = None
    timeout: float = DEFAULT_TIMEOUT
    as_json: bool = False
    speak_as: str = ""
    _profile: Profile | None = field(default=None, repr=False)

    @property
    def profile(self) -> Profile:
        """The profile; it may be empty. Failure if the file cannot be used."""
        if self._profile is None:
            self._profile = load_profile(self.profile_path)
        return self._profile

    @property
    def output(self) -> Output:
        """Where the answer goes."""
        return Output(as_json=self.as_json)

    @property
    def patience(self) -> float:
        """Seconds for a call that waits for nodes: longer than others, unless --timeout was given."""
        return PATIENT_TIMEOUT if self.timeout == DEFAULT_TIMEOUT else self.timeout

    def connect(self, *, prefer: str = "client") -> Connection:
        """A connection to the auth service that speaks as the client or the user; `prefer` is the command's choice."""
        from authsvc.cli.mesh.connection import Connection

        return Connection.signed_in(self.profile, timeout=self.timeout, speak_as=self.speak_as, prefer=prefer)

    def connect_anonymously(self) -> Connection:
        """A connection for the calls that need no credential."""
        from authsvc.cli.mesh.connection import Connection

        return Connection(self.profile, timeout=self.timeout)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        invocation = context.ensure_object(Invocation)
        if value is not None:  # not given here; perhaps before the command's name
            setattr(invocation, name, value)

    return store


def mesh_options(*, root: bool = False) -> list[click.Parameter]:
    """The options of every command. They are understood before the command's name (`root`) and after it."""
    return [
        click.Option(
            ["--profile"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            envvar="CREDMESH_PROFILE" if root else None,
            expose_value=False,
            is_eager=True,
            callback=_store("profile_path"),
            help="The mesh to speak to.  [default: CREDMESH_PROFILE, ./.mesh/profile.json]",
        ),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(min=0.1, max=3600),
            metavar="SECONDS",
            expose_value=False,
            callback=_store("timeout"),
            help=f"How long one call may take.  [default: {DEFAULT_TIMEOUT:g}]",
        ),
        click.Option(
            ["--as"],
            type=click.Choice(["client", "user"]),
            expose_value=False,
            callback=_store("speak_as"),
            help="Speak as the profile's client, or as the user who signed in.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_store("as_json"),
            help="Answer in JSON, for scripts; errors too.",
        ),
    ]


class MeshCommand(click.Command):
    """A command with the options above. Whatever goes wrong in it ends in a message, never in a traceback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(mesh_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, of which an option with one value may be there once."""
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
        except Exception as error:  # the edge of the program: nothing above could say it better
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
        return Failure(f"{error.filename}: {error.strerror}", next_step="Check the path and who may use it.")
    # The text of an unknown exception may quote anything, a credential too.
    return Failure(
        f"unexpected {type(error).__name__}: this is a fault in the command",
        next_step="CREDMESH_DEBUG=1 shows where; report that and `credmesh --version`.",
    )


class MeshGroup(click.Group):
    """A group of commands with the options above."""

    command_class = MeshCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments before the command's name, as MeshCommand does those behind it."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        refuse_repeated(self, ctx, given)
        return rest


def confirm(question: str, *, yes: bool) -> None:
    """Asks before something that cannot be undone, unless `yes` says that it was thought about."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(
            "this cannot be undone, and there is no terminal to ask on",
            next_step="Give --yes if it is meant.",
            code=ExitCode.USAGE,
        )
    click.confirm(question, abort=True, err=True)
