"""A whole mesh on one machine: what `make run`, `make demo` and the tests stand on."""
