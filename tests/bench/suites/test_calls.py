"""The rows of unary calls."""

from __future__ import annotations

from bench.load.rounds import Sample
from bench.suites import calls


def test_rows_of_an_absent_peer_say_how_to_install_it() -> None:
    """The benchmark also runs without Envoy. The rows then have no figure of the peer and no verdict."""
    variants = ("no interceptor", "one warm token", "20 warm tokens in turn", "every token new", "PyJWT by hand")
    samples = {name: [Sample(1000.0, 100.0)] * 6 for name in (*variants, "introspection per call")}
    rows = calls._unary_rows("aio", 20, samples)
    absent = [row for row in rows if "Envoy" in row.name]
    assert absent
    assert all(row.ours is not None and row.peer is None and row.met is None for row in absent)
    assert all("pip install" in row.note for row in absent)
    assert all(row.peer is not None for row in rows if row not in absent)
