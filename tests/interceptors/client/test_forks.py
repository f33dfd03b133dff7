"""A forked child and its parent do not use up each other's refresh token."""

from __future__ import annotations

import subprocess
import sys


def test_a_forked_child_uses_what_it_holds_and_leaves_the_session_to_its_parent() -> None:
    # In an interpreter of its own: forking one that has a test run's threads is another matter.
    done = subprocess.run(
        [sys.executable, "-m", "tests.interceptors.client.forking"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
