"""`python -m authsvc`: one replica of the auth service, told by its environment what to do (see authsvc.settings)."""

from __future__ import annotations

from authsvc.server import run
from authsvc.settings import read_auth_settings
from interceptors.serving import service_process


def main() -> None:
    """Runs the replica until it is told to stop."""
    with service_process("auth"):
        run(read_auth_settings())


if __name__ == "__main__":
    main()
