"""A forked child and its parent never use the same refresh token."""

from __future__ import annotations

import subprocess
import sys


def test_a_forked_child_uses_its_token_and_leaves_refreshing_to_the_parent() -> None:
    # In a separate interpreter: a fork of this one would copy the locks of the test run's threads.
    done = subprocess.run(
        [sys.executable, "-m", "tests.interceptors.client.forking"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
