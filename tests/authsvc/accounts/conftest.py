"""A pool of password workers for each test, since tests occupy its only worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from authsvc.accounts.passwords import Passwords
from tests.authsvc.conftest import SMALL


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """A pool with one worker, whose hashes are cheap."""
    pool = Passwords(workers=1, parameters=SMALL)
    yield pool
    pool.close()
