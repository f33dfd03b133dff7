"""The `credmesh` command: its groups, and the help that lists them.

A command's module is imported when the command is used, so `credmesh --help` does not load gRPC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from authsvc.cli.failure import EXIT_CODES, ExitCode, Failure
from authsvc.cli.options import MeshGroup, mesh_options

__all__ = ["COMMANDS", "credmesh"]

COMMANDS: Final = {
    "Signing in": {
        "login": ("login", "Sign in as a user."),
        "logout": ("login", "Sign out: end the session on every node."),
        "whoami": ("login", "Show your account as the mesh sees it."),
        "passwd": ("login", "Change your own password."),
    },
    "Credentials": {
        "token": ("token", "Inspect a token, or print one for other tools."),
        "sessions": ("sessions", "List the live sessions."),
        "kick": ("sessions", "End sessions by their ids."),
        "revoke": ("revocation", "Revoke credentials that were issued up to now."),
    },
    "Keys and nodes": {
        "keys": ("keys", "List the signing keys."),
        "rotate-keys": ("keys", "Replace the signing key; no call is refused."),
        "revoke-key": ("keys", "Remove a signing key at once."),
        "nodes": ("nodes", "List the nodes that verify credentials."),
        "history": ("history", "Show whether etcd has lost a part of its history."),
    },
    "Accounts": {
        "user": ("user", "Add, list, change and delete users; set passwords."),
        "client": ("client", "Add, list, change and delete clients."),
        "bootstrap": ("bootstrap", "Make the first client and the key-encryption key."),
    },
}
"""Section of the help → command → its module, and its line in the help."""

_BY_NAME: Final = {name: entry for section in COMMANDS.values() for name, entry in section.items()}
_ARGUMENTS_KEY: Final = "authsvc.cli.arguments"
_PROFILE_ROWS: Final = (
    ("auth", "CREDMESH_AUTH: host:port of each replica of the auth service"),
    ("ca_file", "CREDMESH_CA_FILE: the CA of its certificate (else the system's CAs)"),
    ("cert_file, key_file", "CREDMESH_CERT_FILE, CREDMESH_KEY_FILE: a client certificate"),
    ("server_name", "CREDMESH_SERVER_NAME: the name in its certificate, if it is not auth's host"),
    ("plaintext", "CREDMESH_PLAINTEXT: true for a mesh without TLS"),
    ("client_id", "CREDMESH_CLIENT_ID: the client that commands sign in as"),
    ("client_secret_file", "CREDMESH_CLIENT_SECRET_FILE: the file with its secret"),
    ("issuer", "CREDMESH_ISSUER: the issuer of the mesh's tokens"),
    ("etcd, etcd_prefix", "ETCD_ENDPOINTS, CREDMESH_ETCD_PREFIX: for `credmesh bootstrap`"),
)


@contextmanager
def _usage_errors_as_json(arguments: Sequence[str]) -> Iterator[None]:
    """Turns click's usage errors into a Failure in JSON if the arguments have --json.

    The arguments are searched as they are: click has parsed no options when a usage error occurs.
    """
    try:
        yield
    except click.UsageError as error:
        if "--json" not in arguments:
            raise
        failure = Failure(
            # The text of NoArgsIsHelpError is the whole help.
            "Missing command." if isinstance(error, click.exceptions.NoArgsIsHelpError) else error.format_message(),
            next_step=f"`{error.ctx.command_path if error.ctx else 'credmesh'} --help` shows the commands and options.",
            code=ExitCode.USAGE,
        )
        failure.as_json = True
        raise failure from None


class _Credmesh(MeshGroup):
    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        arguments = tuple(args)
        with _usage_errors_as_json(arguments):
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[_ARGUMENTS_KEY] = arguments
        return context

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_errors_as_json(ctx.meta[_ARGUMENTS_KEY]):
            return super().invoke(ctx)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_BY_NAME)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _BY_NAME:
            return None
        module, _ = _BY_NAME[cmd_name]
        command: click.Command = getattr(import_module(f"authsvc.cli.commands.{module}"), cmd_name.replace("-", "_"))
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, short) for name, (_, short) in commands.items()])

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Profile (a JSON object; an environment variable overrides its entry)"):
            formatter.write_dl(_PROFILE_ROWS)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in EXIT_CODES])


def _print_version(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if given and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"credmesh {version('credmesh')}")
        context.exit()


def _options() -> list[Any]:
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Print the version.",
    )
    return [*mesh_options(root=True), version]


credmesh = _Credmesh(
    "credmesh",
    params=_options(),
    context_settings={"help_option_names": ["-h", "--help"]},
    callback=lambda: None,
    help="Operate a credmesh: sign in, list and end sessions, revoke credentials, rotate keys.",
)
