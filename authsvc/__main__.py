"""`python -m authsvc`: runs one replica of the auth service, with the settings of authsvc.settings."""

from __future__ import annotations

from authsvc.server import run
from authsvc.settings import read_auth_settings
from interceptors.serving import service_process


def main() -> None:
    """Runs the replica until SIGTERM or SIGINT."""
    with service_process("auth"):
        run(read_auth_settings())


if __name__ == "__main__":
    main()
