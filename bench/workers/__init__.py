"""The programs that the benchmark runs in their own processes, one module each. See bench.processes.WorkerProcess."""
