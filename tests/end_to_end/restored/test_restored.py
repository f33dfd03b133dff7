"""etcd is restored from a backup: what was revoked after the backup is not accepted again, and the history says why."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import grpc
import pytest

from credmesh.admin.v1 import sessions_pb2
from credmesh.auth.v1 import auth_pb2
from interceptors import Reason
from interceptors.etcd.client import Delete, EtcdClient, Put
from tests.end_to_end.restored.conftest import Caller, Mesh
from tests.support.etcd import backups
from tests.support.etcd.proxy import Proxy
from tests.support.people import People
from tests.support.probe.clients import bearer, make_client
from tests.support.probe.process import ProbeProcess
from tests.support.waiting import wait_until

GONE = {Reason.CREDENTIAL_REVOKED, Reason.KEY_UNKNOWN}
CLUSTERS = pytest.mark.parametrize("new_cluster", [False, True], ids=["same cluster", "new cluster"])
WITHOUT_WATERMARK = pytest.mark.parametrize("mesh", [False], indirect=True, ids=["no watermark"])


def reason(probe: ProbeProcess, method: str, credential: str) -> Reason | None:
    with make_client("sync", probe.target) as client:
        return client.call(method, "who", metadata=bearer(credential)).reason


def serves(probe: ProbeProcess, method: str, credential: str) -> bool:
    with make_client("sync", probe.target) as client:
        return client.call(method, "who", metadata=bearer(credential)).code is grpc.StatusCode.OK


def is_refused(probe: ProbeProcess, method: str, credential: str) -> bool:
    return not serves(probe, method, credential)


def write_elsewhere(mesh: Mesh, times: int) -> None:
    """Commits to keys outside the mesh, so that etcd's revision grows."""
    with EtcdClient(mesh.settings) as etcd:
        for number in range(times):
            etcd.commit([], [Put("/another/application", b"%d" % number)])


def sign_in_late(people: People) -> auth_pb2.Credentials:
    """Signs alice in after many writes, when a busy machine's etcd may not answer for a moment."""

    def signed_in() -> auth_pb2.Credentials | None:
        try:
            return people.sign_in("alice")
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE:
                return None
            raise

    credentials = wait_until(signed_in, what="alice has signed in")
    assert credentials is not None
    return credentials


@CLUSTERS
def test_with_everything_up_nothing_revoked_comes_back_and_users_sign_in(mesh: Mesh, new_cluster: bool) -> None:
    probes = [mesh.probe("sync"), mesh.probe("aio")]
    with mesh.people() as people, ExitStack() as stack:
        alice, bob = people.sign_in("alice"), people.sign_in("bob")
        opaque, kicked = people.sign_in("bob", opaque=True), people.sign_in("bob", opaque=True)
        for probe in probes:
            for credential in (alice.access_token, bob.access_token, opaque.session_token, kicked.session_token):
                wait_until(partial(serves, probe, "Fresh", credential))
        backup = mesh.back_up()
        people.revoke(subject="alice")
        request = sessions_pb2.KickSessionRequest(session_id=kicked.session_id, wait=True)
        people.ask(people.sessions.KickSession, request)
        late = people.sign_in("bob")  # its epoch is a revision that the backup has not reached
        streams = [
            stack.enter_context(make_client("sync", probe.target)).open(
                method, "hold", metadata=bearer(bob.access_token)
            )
            for probe in probes
            for method in ("ServerStream", "Following")
        ]
        assert all(stream.next() == "held" for stream in streams)
        callers = [
            stack.enter_context(Caller(probe, method, credential))
            for probe in probes
            for method in ("Unary", "Fresh")
            for credential in (alice.access_token, kicked.session_token)
        ]
        for caller in callers:
            caller.wait_for_more()
        backups.restore(mesh.etcd, backup, new_cluster=new_cluster)
        recovered = mesh.wait_until_recovered()
        for caller in callers:
            caller.wait_for_more()
        # From the revocation on, through the restore and the recovery.
        assert [caller.accepted for caller in callers] == [0] * len(callers)
        # No credential issued before the recovery is accepted, revoked or not.
        assert all(stream.end().reason in GONE for stream in streams)
        for probe in probes:
            for credential in (bob.access_token, late.access_token, opaque.session_token):
                wait_until(partial(is_refused, probe, "Unary", credential))
                assert reason(probe, "Unary", credential) in {*GONE, Reason.CREDENTIAL_INVALID}
        for refresh_token in (alice.refresh_token, bob.refresh_token, late.refresh_token):
            with pytest.raises(grpc.RpcError) as refused:
                people.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=refresh_token), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        # Users that sign in again are accepted, on strict methods too.
        for subject, is_opaque in (("alice", False), ("bob", True)):
            again = people.sign_in(subject, opaque=is_opaque)
            for probe in probes:
                wait_until(partial(serves, probe, "Fresh", again.access_token or again.session_token))
        receipt = people.revoke(subject="alice").receipt
        assert receipt.complete
        assert len(receipt.nodes) == 3
    lost = recovered.lost[0]
    assert lost.history_id != recovered.history.history_id
    assert lost.highest_revision > lost.answered_revision
    assert "cluster" in lost.reason if new_cluster else "revision" in lost.reason
    (line,) = mesh.auth.log(message="history.lost")
    assert line["next_history_id"] == recovered.history.history_id


@pytest.mark.parametrize(
    ("mesh", "new_cluster"),
    [(True, False), (True, True), (False, True)],
    indirect=["mesh"],
    ids=["watermark, same cluster", "watermark, new cluster", "no watermark, new cluster"],
)
def test_with_everything_restarted_nothing_revoked_comes_back(mesh: Mesh, new_cluster: bool) -> None:
    """No process has observed the lost part. The replica's watermark shows the loss, or the id of a new cluster."""
    mesh.probe()
    with mesh.people() as people:
        alice, bob = people.sign_in("alice"), people.sign_in("bob")
        backup = mesh.back_up()
        people.revoke(subject="alice")
    wait_until(lambda: not mesh.has_watermark_file or _has_written_watermark(mesh))
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=new_cluster)
    # A node that reads the restored etcd before the recovery does not know of the revocation.
    mesh.auth.start(wait=False)
    probe = mesh.probe()
    with Caller(probe, "Unary", alice.access_token) as plain, Caller(probe, "Fresh", alice.access_token) as strict:
        recovered = mesh.wait_until_recovered()
        for caller in (plain, strict):
            caller.wait_for_more()
        assert (plain.accepted, strict.accepted) == (0, 0)
    assert not serves(probe, "Unary", bob.access_token)
    with mesh.people() as people:
        again = people.sign_in("alice")
        wait_until(lambda: serves(probe, "Fresh", again.access_token))
    assert len(recovered.lost) == 1


def _has_written_watermark(mesh: Mesh) -> bool:
    """Whether the replica's watermark has reached etcd's revision."""
    with EtcdClient(mesh.settings) as etcd:
        revision = etcd.read(mesh.layout.beacon).revision
    return f'"revision": {revision}' in mesh.watermark_file.read_text()


@WITHOUT_WATERMARK
def test_nodes_that_stayed_up_report_the_loss_to_a_new_replica(mesh: Mesh) -> None:
    probe = mesh.probe()
    with mesh.people() as people:
        alice = people.sign_in("alice")
        assert serves(probe, "Unary", alice.access_token)
        backup = mesh.back_up()
        people.revoke(subject="alice")
    mesh.auth.kill()
    with Caller(probe, "Unary", alice.access_token) as plain, Caller(probe, "Fresh", alice.access_token) as strict:
        backups.restore(mesh.etcd, backup, new_cluster=False)
        mesh.auth.start()
        recovered = mesh.wait_until_recovered()
        for caller in (plain, strict):
            caller.wait_for_more()
        assert (plain.accepted, strict.accepted) == (0, 0)
    assert recovered.lost[0].noticed_by == probe.node_id


@WITHOUT_WATERMARK
def test_a_credential_with_a_lost_revision_is_refused_and_shows_the_loss(mesh: Mesh) -> None:
    """It is the only sign of the loss if everything was restarted without a watermark, in the same cluster."""
    with mesh.people() as people:
        backup = mesh.back_up()
        write_elsewhere(mesh, 500)
        late = sign_in_late(people)
        people.revoke(subject="alice", wait=False)
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    mesh.start()
    probe = mesh.probe("aio")
    assert not mesh.history().lost
    assert reason(probe, "Fresh", late.access_token) in {Reason.MESH_STALE, *GONE}
    recovered = mesh.wait_until_recovered()
    assert "was issued as of revision" in recovered.lost[0].reason or recovered.lost[0].noticed_by == probe.node_id
    wait_until(lambda: reason(probe, "Unary", late.access_token) in GONE)


@WITHOUT_WATERMARK
def test_on_a_plain_method_it_shows_the_loss_a_moment_later(mesh: Mesh) -> None:
    with mesh.people() as people:
        backup = mesh.back_up()
        write_elsewhere(mesh, 500)
        late = sign_in_late(people)
        people.revoke(subject="alice", wait=False)
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    mesh.start()
    probe = mesh.probe()
    assert reason(probe, "Unary", late.access_token) is None
    mesh.wait_until_recovered()
    wait_until(lambda: reason(probe, "Unary", late.access_token) in GONE)


def test_a_node_that_was_cut_off_proves_nothing_before_a_vouch(mesh: Mesh) -> None:
    """It has observed less than the backup holds, so its watch resumes and its reads succeed."""
    with Proxy(mesh.etcd.endpoint) as proxy:
        probe = mesh.probe(settings=replace(mesh.settings, endpoints=(proxy.endpoint,)))
        with mesh.people() as people:
            alice = people.sign_in("alice")
            wait_until(lambda: serves(probe, "Fresh", alice.access_token))
            proxy.cut()
            people.revoke(subject="mallory", wait=False)
            backup = mesh.back_up()
            people.revoke(subject="alice")
        wait_until(lambda: _has_written_watermark(mesh))
        mesh.auth.kill()
        with Caller(probe, "Fresh", alice.access_token) as strict:
            wait_until(lambda: strict.reasons[-1:] == [Reason.MESH_STALE])
            before = strict.accepted
            backups.restore(mesh.etcd, backup, new_cluster=False)
            proxy.mend()
            with EtcdClient(mesh.settings) as etcd:
                # The node has registered in the restored etcd, and needs a vouch.
                layout = mesh.layout
                restored = etcd.read(layout.beacon).revision
                wait_until(
                    lambda: any(e.mod_revision > restored for e in etcd.read_prefix(layout.nodes).values.values()),
                    timeout=20,
                )
            strict.wait_for_more(50)
            assert strict.reasons[-1] is Reason.MESH_STALE
            mesh.auth.start()
            mesh.wait_until_recovered()
            wait_until(lambda: strict.reasons[-1] in GONE)
            assert strict.accepted == before


def test_a_restored_etcd_that_has_outgrown_the_watermark_is_found(mesh: Mesh) -> None:
    """For example because it was restored with a raised revision, or another application has written since."""
    with mesh.people() as people:
        alice = people.sign_in("alice")
        backup = mesh.back_up()
        people.revoke(subject="alice")
    wait_until(lambda: _has_written_watermark(mesh))
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    write_elsewhere(mesh, 500)
    mesh.start()
    recovered = mesh.wait_until_recovered()
    assert "beacon" in recovered.lost[0].reason
    probe = mesh.probe()
    assert reason(probe, "Unary", alice.access_token) in GONE


def test_a_receipts_commit_is_in_the_watermark_before_the_receipt_is_out(mesh: Mesh) -> None:
    """Otherwise a power cut right after the receipt, and a restore, would lose the commit unnoticed."""
    with mesh.people() as people:
        for _ in range(10):
            receipt = people.revoke(subject="mallory").receipt
            assert json.loads(mesh.watermark_file.read_text())["beacon"] >= receipt.revision


def test_a_restored_etcd_that_another_replica_has_vouched_for_is_found(mesh: Mesh) -> None:
    """The other replica has no watermark and is first. It vouches, rotates keys and revokes."""
    with mesh.people() as people:
        alice = people.sign_in("alice")
        backup = mesh.back_up()
        receipt = people.revoke(subject="alice").receipt
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    other = mesh.another_without_watermark()
    with other, other.channel() as channel, EtcdClient(mesh.settings) as etcd:
        layout = mesh.layout
        people = People(channel, mesh.secrets)
        # Without a watermark nothing seems to be missing, so the restored etcd is vouched for.
        probe = mesh.probe(auth=other)
        wait_until(lambda: serves(probe, "Fresh", alice.access_token), timeout=20)
        while etcd.read(layout.beacon).values[layout.beacon].mod_revision < receipt.revision + 5:
            people.revoke(subject="mallory", wait=False)
        mesh.start()
        recovered = mesh.wait_until_recovered()
        assert "beacon" in recovered.lost[0].reason
        for method in ("Unary", "Fresh"):
            wait_until(lambda method=method: reason(probe, method, alice.access_token) in GONE)  # type: ignore[misc]


def test_the_mesh_recovers_from_a_second_loss_like_from_the_first(mesh: Mesh) -> None:
    """The same backup is restored again. Its history has ended already, whatever its revisions say."""
    backup = mesh.back_up()
    with mesh.people() as people:
        people.revoke(subject="alice")
    for count in (1, 2):
        backups.restore(mesh.etcd, backup, new_cluster=False)
        if count == 2:
            write_elsewhere(mesh, 500)
        recovered = mesh.wait_until_recovered(1)
        wait_until(partial(_has_recovered, mesh, count), timeout=20)
    ids = {line["next_history_id"] for line in mesh.auth.log(message="history.lost")}
    recovered = mesh.history()
    assert recovered.history.history_id in ids
    assert ids - {recovered.history.history_id} < {one.history_id for one in recovered.lost}


def _has_recovered(mesh: Mesh, count: int) -> bool:
    return len(mesh.auth.log(message="history.lost")) == count


def test_an_emptied_etcd_begins_another_history_and_accepts_nothing_older(mesh: Mesh) -> None:
    probe = mesh.probe()
    with mesh.people() as people:
        alice = people.sign_in("alice")
        assert serves(probe, "Unary", alice.access_token)
    with EtcdClient(mesh.settings) as etcd:
        etcd.commit([], [Delete(mesh.settings.prefix, prefix=True)])
    wait_until(lambda: mesh.auth.log(message="history.lost"))
    wait_until(lambda: reason(probe, "Unary", alice.access_token) in GONE)


def test_restarts_without_a_loss_are_not_taken_for_one(mesh: Mesh) -> None:
    """A false alarm would end every session."""
    probe = mesh.probe()
    with mesh.people() as people:
        alice = people.sign_in("alice")
        wait_until(lambda: serves(probe, "Fresh", alice.access_token))
        history_id = mesh.history().history.history_id
        mesh.etcd.kill()
        wait_until(lambda: reason(probe, "Fresh", alice.access_token) is Reason.MESH_STALE, timeout=20)
        mesh.etcd.start()
        wait_until(lambda: serves(probe, "Fresh", alice.access_token), timeout=20)
        mesh.auth.kill()
        mesh.etcd.stop()
        mesh.etcd.start()
        mesh.auth.start()
        wait_until(lambda: serves(probe, "Fresh", alice.access_token), timeout=20)
    recovered = mesh.history()
    assert recovered.history.history_id == history_id
    assert not recovered.lost
    assert recovered.history.HasField("vouched_at")
    with mesh.people() as people:
        answer = people.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=alice.refresh_token), timeout=10)
        assert serves(probe, "Fresh", answer.credentials.access_token)
