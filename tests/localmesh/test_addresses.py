"""Addresses: the same at every start, unless another process uses a port."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from localmesh.addresses import choose_addresses
from tests.support.waiting import free_port


def test_free_ports_are_chosen_once_and_then_kept(tmp_path: Path) -> None:
    remembered = tmp_path / "ports.json"
    first = choose_addresses(remembered, preferred={"a": 0, "b": 0})
    again = choose_addresses(remembered, preferred={"a": 0, "b": 0})
    assert first == again
    assert first.ports["a"] != first.ports["b"]
    assert first.moved == ()
    assert first.of("a") == f"127.0.0.1:{first.ports['a']}"


def test_only_a_taken_port_moves(tmp_path: Path) -> None:
    mine = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen(1)
        port = taken.getsockname()[1]
        chosen = choose_addresses(tmp_path / "ports.json", preferred={"a": mine, "b": port})
    assert chosen.ports["a"] == mine
    assert chosen.moved == (("b", port, chosen.ports["b"]),)
    assert chosen.ports["b"] != port


def test_two_names_never_get_the_same_port(tmp_path: Path) -> None:
    port = free_port()
    chosen = choose_addresses(tmp_path / "ports.json", preferred={"a": port, "b": port})
    assert chosen.ports["a"] != chosen.ports["b"]


@pytest.mark.parametrize("text", ["", "[]", "nonsense", json.dumps({"a": "1", "b": -1, "c": 70000, "d": True})])
def test_invalid_remembered_ports_are_ignored(tmp_path: Path, text: str) -> None:
    remembered = tmp_path / "ports.json"
    remembered.write_text(text)
    port = free_port()
    assert choose_addresses(remembered, preferred={"a": port}).ports == {"a": port}
