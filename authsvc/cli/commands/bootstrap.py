"""`credmesh bootstrap …`: what has to be there before anybody can sign in.

These commands write straight into etcd, or into a file, and so need no credential: whoever reaches etcd as the auth
service does may do all of this anyway.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.options import Invocation, MeshGroup, pass_invocation
from authsvc.cli.terminal.secrets import write_secret

__all__ = ["bootstrap"]


@click.group("bootstrap", cls=MeshGroup)
def bootstrap() -> None:
    """Make what has to be there before anybody can sign in: the key-encryption key and the first client."""


@bootstrap.command("kek")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@pass_invocation
def bootstrap_kek(invocation: Invocation, path: Path) -> None:
    """Write a new key-encryption key to FILE, which only you may read. It never overwrites one.

    Every auth replica gets the same one by CREDMESH_KEK_FILE or CREDMESH_KEK. Without it the signing keys in etcd are
    lost: keep a copy where you keep secrets.
    """
    from authsvc.accounts.bootstrap import generate_kek

    try:
        generate_kek(path)
    except FileExistsError:
        raise Failure(
            f"{path} is there already, and was left as it is",
            next_step="A key-encryption key that is overwritten takes every signing key with it. Name another file.",
        ) from None
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}", code=ExitCode.USAGE) from None
    if invocation.as_json:
        invocation.output.data({"kekFile": str(path)})
    else:
        invocation.output.line(f"Wrote a key-encryption key. Give it to every auth replica: CREDMESH_KEK_FILE={path}")


@bootstrap.command("operator")
@click.option("--client-id", default="operator", show_default=True, metavar="ID", help="The client's id.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the secret to a new file that only you may read, instead of showing it.",
)
@pass_invocation
def bootstrap_operator(invocation: Invocation, client_id: str, secret_file: Path | None) -> None:
    """Make a client that may do everything these commands do, straight in etcd.

    etcd is where ETCD_ENDPOINTS says (ETCD_CA_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE; CREDMESH_ETCD_PREFIX), else where
    the profile says. From then on make users and clients with `credmesh user add` and `credmesh client add`.
    """
    from authsvc.accounts.bootstrap import AUTH_AUDIENCE, OPERATOR_SCOPES, ensure_client
    from authsvc.api.validate import name
    from authsvc.errors import InvalidField
    from interceptors.errors import SettingsError
    from interceptors.etcd.client import EtcdClient, EtcdUnavailable
    from interceptors.keyspace import Layout
    from interceptors.settings import EtcdSettings, read_settings

    try:
        name("client_id", client_id)
    except InvalidField as error:
        raise Failure(str(error), code=ExitCode.USAGE) from None
    try:
        settings = read_settings(EtcdSettings, {**os.environ, **invocation.profile.etcd_environ()})
    except SettingsError as error:
        raise Failure(str(error), next_step="Set it, or `etcd` in the profile.", code=ExitCode.USAGE) from None
    with write_secret(secret_file) as keep, EtcdClient(settings) as etcd:
        try:
            secret = ensure_client(
                etcd, Layout(settings.prefix), client_id, scopes=OPERATOR_SCOPES, audiences=(AUTH_AUDIENCE,)
            )
        except EtcdUnavailable as error:
            place = invocation.profile.place("etcd")
            raise Failure(
                str(error),
                next_step=f"Is it up, and does this machine reach it? {place} says where it is.",
                code=ExitCode.UNREACHABLE,
            ) from None
        if secret is None:
            raise Failure(
                f"client {client_id} is there already; its secret cannot be shown again",
                next_step="Make one by another name: credmesh bootstrap operator --client-id NAME",
                code=ExitCode.NOTHING,
            )
        keep(secret)
    _say(invocation, client_id, secret, secret_file)


def _say(invocation: Invocation, client_id: str, secret: str, secret_file: Path | None) -> None:
    if invocation.as_json:
        where = {"clientSecret": secret} if secret_file is None else {"clientSecretFile": str(secret_file)}
        invocation.output.data({"clientId": client_id, **where})
    elif secret_file is not None:
        invocation.output.line(
            f"Made client {client_id}. Its secret is in {secret_file}: "
            f"CREDMESH_CLIENT_ID={client_id} CREDMESH_CLIENT_SECRET_FILE={secret_file}"
        )
    else:
        invocation.output.line(secret)
        invocation.output.note(f"Made client {client_id}. This is its secret, shown this once.")
