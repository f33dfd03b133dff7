"""A process that forks while it holds a session; see test_forks."""

from __future__ import annotations

import os
import sys
import traceback

import grpc

from interceptors.client import Credentials, PasswordLogin, RefreshTokenLogin
from tests.interceptors.client.auth_server import World
from tests.support.waiting import wait_until


def main() -> None:
    """Exits with 0 if parent and child used no refresh token twice."""
    with World() as world, grpc.insecure_channel(world.target) as auth:
        world.lifetime = 1.0
        with Credentials(PasswordLogin("alice", "alice-password"), auth) as alice:
            alice.token()
        credentials = Credentials(RefreshTokenLogin("refresh-1"), auth)
        held = credentials.token()
        child = os.fork()
        if child == 0:
            try:
                _in_child(credentials, held)
            except BaseException:  # noqa: BLE001 - the child must not run on into the parent's code
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit("the child failed; see its traceback above")
        # The child ran until its token expired. Had it refreshed, the parent's refresh token would be used up.
        wait_until(lambda: credentials.token() != held)
        used = list(world.refreshes)
        if len(used) != len(set(used)):
            sys.exit(f"a refresh token was used twice: {used}")
        credentials.close()


def _in_child(credentials: Credentials, held: str) -> None:
    if credentials.token(timeout=0) != held:
        raise AssertionError("the child does not hold the token that the parent held at the fork")

    def refusal() -> grpc.RpcError | None:
        try:
            credentials.token(timeout=0)
        except grpc.RpcError as error:
            return error
        return None

    error = wait_until(refusal)
    if error is None or error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
        raise AssertionError(f"the child's call ended with {error}")
    if "after the fork" not in str(error.details()):
        raise AssertionError(f"the error does not say what to do: {error.details()}")


if __name__ == "__main__":
    main()
