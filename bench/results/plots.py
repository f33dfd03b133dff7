"""Two plots of a run: calls per second, and the time until every node refuses a revoked credential."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from bench.results.statistics import Row

__all__ = ["plot"]

_OURS: Final = "#2563eb"
_LIMIT: Final = "#94a3b8"
_OTHERS: Final = "#f59e0b"
_INK: Final = "#334155"
_DOTS: Final = 160
_KINDS: Final = ("sync", "aio")
_CALLS: Final = re.compile(r"(sync|aio) unary: (.+) ÷ (.+)")
_DELAYS: Final = re.compile(r"refused by (?:all of )?(\d+) nodes? since the request was sent, p(\d+)")


def plot(rows: Sequence[Row], out: Path) -> list[Path]:
    """Writes the plots whose figures are in the rows. Returns their paths."""
    written: list[Path] = []
    rates = {kind: _rates(rows, kind) for kind in _KINDS}
    if all(rates.values()):
        written.append(_save(_plot_calls(rates), out / "bench-calls.png"))
    delays = {(int(nodes), percent): row for row in rows for nodes, percent in _DELAYS.findall(row.name)}
    if delays:
        written.append(_save(_plot_delays(delays), out / "bench-revocation.png"))
    return written


def _rates(rows: Sequence[Row], kind: str) -> dict[str, float]:
    """Calls per second by the name of the variant, in ascending order."""
    found: dict[str, float] = {}
    for row in rows:
        match = _CALLS.fullmatch(row.name)
        if match is not None and match[1] == kind:
            found |= {name: rate for name, rate in ((match[2], row.ours), (match[3], row.peer)) if rate is not None}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _plot_calls(rates: Mapping[str, Mapping[str, float]]) -> Any:
    figure, panels = plt.subplots(1, len(rates), figsize=(11, 3.8), layout="constrained")
    for panel, (kind, found) in zip(panels, rates.items(), strict=True):
        names = [f"credmesh, {name}" if _is_ours(name) else name for name in found]
        colors = [_OURS if _is_ours(name) else _LIMIT if name == "no interceptor" else _OTHERS for name in found]
        bars = panel.barh(names, list(found.values()), color=colors, height=0.7)
        panel.bar_label(bars, fmt="{:,.0f}", padding=3, color=_INK, fontsize=8)
        panel.set_title(f"{'grpc.aio' if kind == 'aio' else 'grpc'} server", loc="left", color=_INK, fontsize=10)
        panel.set_xlim(0, max(found.values()) * 1.15)
        _quieten(panel)
    figure.suptitle("Unary calls per second that one core serves", x=0.01, ha="left", color=_INK, fontweight="bold")
    return figure


def _is_ours(name: str) -> bool:
    return "token" in name and "Envoy" not in name


def _plot_delays(delays: Mapping[tuple[int, str], Row]) -> Any:
    figure, panel = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    nodes = sorted({count for count, _ in delays})
    places = range(len(nodes))
    for shift, (side, color, label) in enumerate(
        (("peer", _LIMIT, "a bare etcd watch has the event"), ("ours", _OURS, "credmesh refuses the credential"))
    ):
        for percent, alpha in (("99", 0.35), ("50", 1.0)):
            heights = [getattr(delays[count, percent], side) for count in nodes]
            at = [place + (shift - 0.5) * 0.38 for place in places]
            bars = panel.bar(at, heights, width=0.36, color=color, alpha=alpha, label=f"{label}, p{percent}")
            if percent == "99":
                panel.bar_label(bars, fmt="{:.1f}", padding=2, color=_INK, fontsize=8)
    panel.set_xticks(list(places), [f"{count} node{'s' if count > 1 else ''}" for count in nodes])
    panel.set_ylabel("ms since the request was sent", color=_INK, fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=_INK)
    panel.set_title(
        "From a revocation until the last node refuses", loc="left", color=_INK, fontweight="bold", fontsize=11
    )
    _quieten(panel)
    return figure


def _quieten(panel: Any) -> None:
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(colors=_INK, labelsize=8, length=0)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=_DOTS)
    plt.close(figure)
    return path
