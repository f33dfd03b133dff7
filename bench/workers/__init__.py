"""Programs that the benchmark runs as processes, one module each."""
