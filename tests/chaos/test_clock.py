"""A process's wall clock follows its file, and its other clocks do not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from chaos.clock import WallClock

PROGRAM = """
import json, sys
from pathlib import Path
from chaos.clock import follow
follow(Path(sys.argv[1]))
import time
from grpc import _channel
for _ in sys.stdin:
    read = {"time": time.time(), "ns": time.time_ns() / 1e9, "mono": time.monotonic(), "grpc": _channel.time.time()}
    print(json.dumps(read), flush=True)
"""


def test_a_wall_clock_follows_its_file_while_the_process_runs(tmp_path: Path) -> None:
    """gRPC's deadlines and the monotonic clock are not shifted: a wrong wall clock does not affect them."""
    wall_clock = WallClock(tmp_path / "wall_clock")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(wall_clock.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for ahead in (0.0, 300.0, -600.0, 0.0):
            wall_clock.set_ahead(ahead)
            process.stdin.write("read\n")
            process.stdin.flush()
            read = json.loads(process.stdout.readline())
            assert abs(read["time"] - time.time() - ahead) < 2
            assert abs(read["ns"] - time.time() - ahead) < 2
            assert abs(read["grpc"] - time.time()) < 2
            assert abs(read["mono"] - time.monotonic()) < 2
        process.stdin.close()
