"""Argon2id checks, in their own process: `python -m bench.workers.hasher CORES SETTINGS`."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import argon2

from authsvc.accounts.passwords import PARAMETERS, hash_password
from bench.machine import pin

__all__ = ["main"]


def main() -> None:
    """Checks a password as often as each message says, with as many threads as the auth service."""
    pin(json.loads(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    hasher = argon2.PasswordHasher.from_parameters(PARAMETERS)
    known = hash_password("alice-password")
    print(json.dumps({"ready": True}), flush=True)
    with ThreadPoolExecutor(settings["workers"]) as pool:
        for line in sys.stdin:
            count = json.loads(line)["count"]
            started_at = time.perf_counter()
            assert all(pool.map(lambda _: hasher.verify(known, "alice-password"), range(count)))
            print(json.dumps({"seconds": time.perf_counter() - started_at}), flush=True)


if __name__ == "__main__":
    main()
