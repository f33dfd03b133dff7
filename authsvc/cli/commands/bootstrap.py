"""`credmesh bootstrap …`: what a mesh needs before the first sign-in.

These commands write to etcd directly, or to a file, and need no credential. Access to etcd with the rights of the auth
service allows all of this anyway.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from authsvc.cli.accounts import secret_file_option
from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.options import Invocation, MeshGroup, pass_invocation
from authsvc.cli.terminal.secrets import create_secret_file

__all__ = ["bootstrap"]


@click.group("bootstrap", cls=MeshGroup)
def bootstrap() -> None:
    """Make what a mesh needs before the first sign-in: the key-encryption key and the first client."""


@bootstrap.command("kek")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@pass_invocation
def bootstrap_kek(invocation: Invocation, path: Path) -> None:
    """Write a new key-encryption key to FILE. Only you may read the file. An existing file is not overwritten.

    Every auth replica gets the same key by CREDMESH_KEK_FILE or CREDMESH_KEK. The signing keys in etcd are lost
    without it: keep a copy where you keep secrets.
    """
    from authsvc.accounts.bootstrap import generate_kek

    try:
        generate_kek(path)
    except FileExistsError:
        raise Failure(
            f"{path} exists already and was not changed",
            next_step="Name another file. If a key-encryption key is overwritten, all signing keys are lost.",
        ) from None
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}", code=ExitCode.USAGE) from None
    if invocation.as_json:
        invocation.output.data({"kekFile": str(path)})
    else:
        invocation.output.line(f"Wrote a key-encryption key. Give it to every auth replica: CREDMESH_KEK_FILE={path}")


@bootstrap.command("operator")
@click.option("--client-id", default="operator", show_default=True, metavar="ID", help="The client's id.")
@secret_file_option
@pass_invocation
def bootstrap_operator(invocation: Invocation, client_id: str, secret_file: Path | None) -> None:
    """Make a client that may use every command, directly in etcd.

    The address of etcd is from ETCD_ENDPOINTS (with ETCD_CA_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE, CREDMESH_ETCD_PREFIX),
    else from the profile. Make further accounts with `credmesh user add` and `credmesh client add`.
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
    with create_secret_file(secret_file) as write, EtcdClient(settings) as etcd:
        try:
            secret = ensure_client(
                etcd, Layout(settings.prefix), client_id, scopes=OPERATOR_SCOPES, audiences=(AUTH_AUDIENCE,)
            )
        except EtcdUnavailable as error:
            source = invocation.profile.source_of("etcd")
            raise Failure(
                str(error),
                next_step=f"Is etcd up, and can this machine reach it? The address is from {source}.",
                code=ExitCode.UNREACHABLE,
            ) from None
        if secret is None:
            raise Failure(
                f"client {client_id} exists already, and its secret cannot be shown again",
                next_step="Choose another name: credmesh bootstrap operator --client-id NAME",
                code=ExitCode.NOTHING,
            )
        write(secret)
    _show_client(invocation, client_id, secret, secret_file)


def _show_client(invocation: Invocation, client_id: str, secret: str, secret_file: Path | None) -> None:
    if invocation.as_json:
        shown = {"clientSecret": secret} if secret_file is None else {"clientSecretFile": str(secret_file)}
        invocation.output.data({"clientId": client_id, **shown})
    elif secret_file is not None:
        invocation.output.line(
            f"Made client {client_id}. Its secret is in {secret_file}: "
            f"CREDMESH_CLIENT_ID={client_id} CREDMESH_CLIENT_SECRET_FILE={secret_file}"
        )
    else:
        invocation.output.line(secret)
        invocation.output.note(f"Made client {client_id}. This is its secret; it is shown only once.")
