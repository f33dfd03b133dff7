"""The audit trail: one JSON line per event, and a count."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from authsvc.audit import audit
from credmesh.store.v1 import auth_pb2
from interceptors.serving.logs import LogSettings, configure_logging
from interceptors.stored_records import RecordError, parse_record


@pytest.fixture
def trail() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("auth", LogSettings(level="error"), stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_an_event_is_one_line_of_json_at_any_log_level(trail: io.StringIO) -> None:
    audit("test.event", outcome="refused", subject="alice\nforged", scopes=("a", "b"), reason="CREDENTIAL_INVALID")
    (line,) = trail.getvalue().splitlines()
    record = json.loads(line)
    assert record["event"] == "test.event"
    assert record["outcome"] == "refused"
    assert record["subject"] == "alice\nforged"
    assert record["scopes"] == ["a", "b"]
    assert record["logger"] == "credmesh.audit"


def test_no_field_name_can_lose_an_event(trail: io.StringIO) -> None:
    """logging raises KeyError for an extra field that has the name of a LogRecord attribute."""
    audit("test.event", name="n", message="m", args="a", module="x")
    record = json.loads(trail.getvalue())
    assert (record["name_"], record["message_"], record["args_"], record["module_"]) == ("n", "m", "a", "x")


def test_events_are_counted(trail: io.StringIO) -> None:
    labels = {"event": "test.counted", "outcome": "ok"}
    audit("test.counted")
    audit("test.counted")
    assert REGISTRY.get_sample_value("credmesh_audit_events_total", labels) == 2


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xff\xff",
        b"",
        auth_pb2.UserRecord(format=2, subject="alice").SerializeToString(),
        auth_pb2.UserRecord(subject="alice").SerializeToString(),
    ],
)
def test_a_foreign_or_newer_record_is_not_read(value: bytes) -> None:
    with pytest.raises(RecordError, match=r"UserRecord"):
        parse_record(auth_pb2.UserRecord, value)
