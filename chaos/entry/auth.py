"""A replica of the auth service in the test bed: `python -m chaos.entry.auth`."""

from __future__ import annotations

from chaos.entry.process_setup import set_up


def main() -> None:
    """As `python -m authsvc`."""
    set_up()
    from authsvc.__main__ import main as run

    run()


if __name__ == "__main__":
    main()
