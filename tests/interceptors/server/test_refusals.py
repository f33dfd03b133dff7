"""The audit trail of refusals: a flood is summarised, and hides no refusal with another reason."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from interceptors import MeshNode, Reason, Refusal
from interceptors.node.audit import AuditLog
from interceptors.scopes import subject_scope
from interceptors.server.admission import OTHER_METHODS, record_denied_method
from tests.support.probe.clients import Client, bearer, make_client
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import SERVICE
from tests.support.probe.servers import ProbeServer
from tests.support.waiting import wait_until

FLOOD = 5000


@pytest.fixture
def log() -> Iterator[AuditLog]:
    """A log that is flushed at the end, so that the next test does not see its lines."""
    log = AuditLog()
    yield log
    log.flush()


def flood(log: AuditLog, reason: Reason, times: int = FLOOD) -> None:
    refusal = Refusal(reason)
    for _ in range(times):
        log.log_refused("/a/Method", "ipv4:192.0.2.1:1", refusal)


def lines(caplog: pytest.LogCaptureFixture, event: str, reason: Reason | None = None) -> list[logging.LogRecord]:
    found = [record for record in caplog.records if record.__dict__.get("event") == event]
    return [record for record in found if reason is None or record.__dict__["reason"] == reason.name]


@pytest.mark.parametrize(
    "reason", [Reason.CREDENTIAL_REVOKED, Reason.SCOPE_MISSING, Reason.AUDIENCE_MISMATCH, Reason.METHOD_DENIED]
)
def test_a_flood_of_garbage_hides_no_refusal_of_another_reason(
    log: AuditLog, caplog: pytest.LogCaptureFixture, reason: Reason
) -> None:
    for garbage in (Reason.CREDENTIAL_MALFORMED, Reason.CREDENTIAL_MISSING, Reason.CREDENTIAL_INVALID):
        flood(log, garbage)
    log.log_refused("/a/Method", "ipv4:192.0.2.2:1", Refusal(reason), subject="alice")
    flood(log, Reason.CREDENTIAL_MALFORMED, 10)
    (line,) = lines(caplog, "refused", reason)
    assert (line.__dict__["subject"], line.__dict__["peer"]) == ("alice", "ipv4:192.0.2.2:1")


def test_the_refusals_that_a_flood_left_out_are_counted(
    log: AuditLog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    flood(log, Reason.CREDENTIAL_MALFORMED)
    flood(log, Reason.CREDENTIAL_MISSING)

    def counted(reason: Reason) -> int:
        left_out: list[int] = [line.__dict__["left_out"] for line in lines(caplog, "refused.left_out", reason)]
        return len(lines(caplog, "refused", reason)) + sum(left_out)

    for reason in (Reason.CREDENTIAL_MALFORMED, Reason.CREDENTIAL_MISSING):
        wait_until(lambda reason=reason: counted(reason) == FLOOD)  # type: ignore[misc]
        assert len(lines(caplog, "refused", reason)) < FLOOD / 5


def test_a_long_flood_is_summarised_repeatedly(log: AuditLog, caplog: pytest.LogCaptureFixture) -> None:
    for summaries in (0, 1):

        def is_summarised_again(summaries: int = summaries) -> bool:
            flood(log, Reason.CREDENTIAL_INVALID, 100)
            return len(lines(caplog, "refused.left_out")) > summaries

        wait_until(is_summarised_again)


def test_a_flood_hides_no_end_of_a_stream(log: AuditLog, caplog: pytest.LogCaptureFixture) -> None:
    flood(log, Reason.CREDENTIAL_REVOKED)
    refusal = Refusal(Reason.CREDENTIAL_REVOKED, "scope sub/alice was revoked at revision 7")
    for number in range(500):
        log.log_ended("/a/Stream", f"ipv4:192.0.2.3:{number}", refusal, subject="alice")
    wait_until(lambda: len(lines(caplog, "stream.ended")) == 500)
    assert {line.__dict__["peer"] for line in lines(caplog, "stream.ended")} == {
        f"ipv4:192.0.2.3:{number}" for number in range(500)
    }


def test_a_process_that_exits_counts_the_refusals_that_it_left_out() -> None:
    program = (
        "import logging, sys\n"
        "from interceptors import Reason, Refusal\n"
        "from interceptors.node.audit import AuditLog\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s %(reason)s %(left_out)s', level='INFO',\n"
        "                    force=True)\n"
        "logging.getLogger().handlers[0].addFilter(lambda record: record.getMessage() == 'refused.left_out')\n"
        "log = AuditLog()\n"
        "for _ in range(500):\n"
        "    log.log_refused('/a/Method', 'peer', Refusal(Reason.CREDENTIAL_MISSING))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "refused.left_out CREDENTIAL_MISSING" in done.stdout


# The other kinds use a thread for each stream.
@pytest.mark.parametrize("server", ["aio"], indirect=True)
def test_every_stream_that_a_revocation_ends_has_an_audit_line(
    server: ProbeServer, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = issuer.token()
    with make_client("aio", server.target) as client:
        streams = [client.open("ServerStream", "hold", metadata=bearer(token)) for _ in range(80)]
        for stream in streams:
            assert stream.next() == "held"
        issuer.revoke(subject_scope("alice"))
        assert {stream.end().reason for stream in streams} == {Reason.CREDENTIAL_REVOKED}
    wait_until(lambda: len(lines(caplog, "stream.ended", Reason.CREDENTIAL_REVOKED)) == len(streams))
    assert {line.__dict__["subject"] for line in lines(caplog, "stream.ended")} == {"alice"}


def test_a_call_of_a_method_without_a_rule_is_counted(client: Client, issuer: Issuer, node: MeshNode) -> None:
    for _ in range(3):
        client.call("Unruled", "who", metadata=bearer(issuer.token()))
    assert node.call_counts[f"/{SERVICE}/Unruled"].refused == {"METHOD_DENIED": 3}


def test_made_up_method_names_do_not_make_the_metrics_grow(node: MeshNode) -> None:
    for number in range(10_100):
        record_denied_method(node, f"/made.Up/Method{number}", Refusal(Reason.METHOD_DENIED), "peer")
    assert len(node.call_counts) <= 10_001
    assert node.call_counts[OTHER_METHODS].refused["METHOD_DENIED"] == 100
