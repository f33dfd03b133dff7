"""An etcd that is restored from a backup: what was revoked after it is not accepted again, and it shows why."""

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
WITHOUT_MEMORY = pytest.mark.parametrize("mesh", [False], indirect=True, ids=["no memory"])


def reason(probe: ProbeProcess, method: str, credential: str) -> Reason | None:
    with make_client("sync", probe.target) as client:
        return client.call(method, "who", metadata=bearer(credential)).reason


def serves(probe: ProbeProcess, method: str, credential: str) -> bool:
    with make_client("sync", probe.target) as client:
        return client.call(method, "who", metadata=bearer(credential)).code is grpc.StatusCode.OK


def is_refused(probe: ProbeProcess, method: str, credential: str) -> bool:
    return not serves(probe, method, credential)


def write_elsewhere(mesh: Mesh, times: int) -> None:
    """Moves etcd's revision on, by what is none of the mesh's."""
    with EtcdClient(mesh.settings) as etcd:
        for number in range(times):
            etcd.commit([], [Put("/somebody/else", b"%d" % number)])


@CLUSTERS
def test_with_everything_up_nothing_revoked_comes_back_and_everybody_signs_in_anew(
    mesh: Mesh, new_cluster: bool
) -> None:
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
        late = people.sign_in("bob")  # issued as of a revision that the backup does not know
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
        told = mesh.wait_until_answered()
        for caller in callers:
            caller.wait_for_more()
        # From the revocation on, through the loss, and after it.
        assert [caller.accepted for caller in callers] == [0] * len(callers)
        # Nothing that was issued before counts any more, whether it was revoked or not.
        assert all(stream.end().reason in GONE for stream in streams)
        for probe in probes:
            for credential in (bob.access_token, late.access_token, opaque.session_token):
                wait_until(partial(is_refused, probe, "Unary", credential))
                assert reason(probe, "Unary", credential) in {*GONE, Reason.CREDENTIAL_INVALID}
        for refresh_token in (alice.refresh_token, bob.refresh_token, late.refresh_token):
            with pytest.raises(grpc.RpcError) as refused:
                people.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=refresh_token), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        # And everybody is back by signing in, on strict methods too.
        for subject, is_opaque in (("alice", False), ("bob", True)):
            again = people.sign_in(subject, opaque=is_opaque)
            for probe in probes:
                wait_until(partial(serves, probe, "Fresh", again.access_token or again.session_token))
        receipt = people.revoke(subject="alice").receipt
        assert receipt.complete
        assert len(receipt.nodes) == 3
    lost = told.lost[0]
    assert lost.history_id != told.history.history_id
    assert lost.highest_revision > lost.answered_revision
    assert "cluster" in lost.reason if new_cluster else "revision" in lost.reason
    (line,) = mesh.auth.log(message="history.lost")
    assert line["next_history_id"] == told.history.history_id


@pytest.mark.parametrize(
    ("mesh", "new_cluster"),
    [(True, False), (True, True), (False, True)],
    indirect=["mesh"],
    ids=["memory, same cluster", "memory, new cluster", "no memory, new cluster"],
)
def test_with_everything_restarted_nothing_revoked_comes_back(mesh: Mesh, new_cluster: bool) -> None:
    """Nobody who was there is left. What tells is the replica's memory, or the id of a new cluster."""
    mesh.probe()
    with mesh.people() as people:
        alice, bob = people.sign_in("alice"), people.sign_in("bob")
        backup = mesh.back_up()
        people.revoke(subject="alice")
    wait_until(lambda: not mesh.memory or _remembers(mesh))
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=new_cluster)
    # Whichever comes first: a node alone reads what was revoked as if it were not.
    mesh.auth.start(wait=False)
    probe = mesh.probe()
    with Caller(probe, "Unary", alice.access_token) as plain, Caller(probe, "Fresh", alice.access_token) as strict:
        told = mesh.wait_until_answered()
        for caller in (plain, strict):
            caller.wait_for_more()
        assert (plain.accepted, strict.accepted) == (0, 0)
    assert not serves(probe, "Unary", bob.access_token)
    with mesh.people() as people:
        again = people.sign_in("alice")
        wait_until(lambda: serves(probe, "Fresh", again.access_token))
    assert len(told.lost) == 1


def _remembers(mesh: Mesh) -> bool:
    """Whether the replica has written down all that there is."""
    with EtcdClient(mesh.settings) as etcd:
        revision = etcd.read(mesh.layout.beacon).revision
    return f'"revision": {revision}' in mesh.memory_file.read_text()


@WITHOUT_MEMORY
def test_nodes_that_stayed_up_tell_a_replica_that_remembers_nothing(mesh: Mesh) -> None:
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
        told = mesh.wait_until_answered()
        for caller in (plain, strict):
            caller.wait_for_more()
        assert (plain.accepted, strict.accepted) == (0, 0)
    assert told.lost[0].noticed_by == probe.node_id


@WITHOUT_MEMORY
def test_a_credential_from_the_lost_future_is_refused_by_a_strict_method_and_gives_the_loss_away(mesh: Mesh) -> None:
    """The last sign that is left when everything was restarted, nobody remembers, and the cluster is the same."""
    with mesh.people() as people:
        backup = mesh.back_up()
        write_elsewhere(mesh, 500)
        late = people.sign_in("alice")
        people.revoke(subject="alice", wait=False)
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    mesh.start()
    probe = mesh.probe("aio")
    assert not mesh.history().lost
    assert reason(probe, "Fresh", late.access_token) in {Reason.MESH_STALE, *GONE}
    told = mesh.wait_until_answered()
    assert "was issued as of revision" in told.lost[0].reason or told.lost[0].noticed_by == probe.node_id
    wait_until(lambda: reason(probe, "Unary", late.access_token) in GONE)


@WITHOUT_MEMORY
def test_a_plain_method_gives_it_away_too_a_moment_later(mesh: Mesh) -> None:
    with mesh.people() as people:
        backup = mesh.back_up()
        write_elsewhere(mesh, 500)
        late = people.sign_in("alice")
        people.revoke(subject="alice", wait=False)
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    mesh.start()
    probe = mesh.probe()
    assert reason(probe, "Unary", late.access_token) is None
    mesh.wait_until_answered()
    wait_until(lambda: reason(probe, "Unary", late.access_token) in GONE)


def test_a_node_that_was_cut_off_all_the_while_proves_nothing_before_somebody_has_vouched(mesh: Mesh) -> None:
    """It knows less than the backup: its watch resumes and its reads succeed as if nothing had happened."""
    with Proxy(mesh.etcd.endpoint) as proxy:
        probe = mesh.probe(settings=replace(mesh.settings, endpoints=(proxy.endpoint,)))
        with mesh.people() as people:
            alice = people.sign_in("alice")
            wait_until(lambda: serves(probe, "Fresh", alice.access_token))
            proxy.cut()
            people.revoke(subject="nobody", wait=False)
            backup = mesh.back_up()
            people.revoke(subject="alice")
        wait_until(lambda: _remembers(mesh))
        mesh.auth.kill()
        with Caller(probe, "Fresh", alice.access_token) as strict:
            wait_until(lambda: strict.reasons[-1:] == [Reason.MESH_STALE])
            before = strict.accepted
            backups.restore(mesh.etcd, backup, new_cluster=False)
            proxy.mend()
            with EtcdClient(mesh.settings) as etcd:
                # It is back: it has registered in the restored etcd, and asks for its history to be vouched for.
                layout = mesh.layout
                restored_at = etcd.read(layout.beacon).revision
                wait_until(
                    lambda: any(e.mod_revision > restored_at for e in etcd.read_prefix(layout.nodes).values.values()),
                    timeout=20,
                )
            strict.wait_for_more(50)
            assert strict.reasons[-1] is Reason.MESH_STALE
            mesh.auth.start()
            mesh.wait_until_answered()
            wait_until(lambda: strict.reasons[-1] in GONE)
            assert strict.accepted == before


def test_an_etcd_that_has_outgrown_what_was_seen_is_found_all_the_same(mesh: Mesh) -> None:
    """As one that was restored with its revision raised, or that others have written to since."""
    with mesh.people() as people:
        alice = people.sign_in("alice")
        backup = mesh.back_up()
        people.revoke(subject="alice")
    wait_until(lambda: _remembers(mesh))
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    write_elsewhere(mesh, 500)
    mesh.start()
    told = mesh.wait_until_answered()
    assert "beacon" in told.lost[0].reason
    probe = mesh.probe()
    assert reason(probe, "Unary", alice.access_token) in GONE


def test_the_maker_of_a_receipt_has_written_down_what_it_promises_before_it_is_out(mesh: Mesh) -> None:
    """Whatever comes right after it, and be it that the power fails and a backup is restored."""
    with mesh.people() as people:
        for _ in range(10):
            receipt = people.revoke(subject="nobody").receipt
            assert json.loads(mesh.memory_file.read_text())["beacon"] >= receipt.revision


def test_an_etcd_that_another_replica_has_vouched_for_and_moved_on_is_found_all_the_same(mesh: Mesh) -> None:
    """The other one has no memory and is first: registrations, vouches, keys and revocations of its own."""
    with mesh.people() as people:
        alice = people.sign_in("alice")
        backup = mesh.back_up()
        receipt = people.revoke(subject="alice").receipt
    mesh.kill_everything()
    backups.restore(mesh.etcd, backup, new_cluster=False)
    other = mesh.without_memory()
    with other, other.channel() as channel, EtcdClient(mesh.settings) as etcd:
        layout = mesh.layout
        people = People(channel, mesh.secrets)
        # This is what it comes to without a memory: nothing seems to be missing, so the loss is vouched for.
        probe = mesh.probe(auth=other)
        wait_until(lambda: serves(probe, "Fresh", alice.access_token), timeout=20)
        while etcd.read(layout.beacon).values[layout.beacon].mod_revision < receipt.revision + 5:
            people.revoke(subject="nobody", wait=False)
        mesh.start()
        told = mesh.wait_until_answered()
        assert "beacon" in told.lost[0].reason
        for method in ("Unary", "Fresh"):
            wait_until(lambda method=method: reason(probe, method, alice.access_token) in GONE)  # type: ignore[misc]


def test_a_second_loss_is_answered_as_the_first_was(mesh: Mesh) -> None:
    """The same backup again: the history that it is in had ended already, whatever its revisions say."""
    backup = mesh.back_up()
    with mesh.people() as people:
        people.revoke(subject="alice")
    for count in (1, 2):
        backups.restore(mesh.etcd, backup, new_cluster=False)
        if count == 2:
            write_elsewhere(mesh, 500)
        told = mesh.wait_until_answered(1)
        wait_until(partial(_has_answered, mesh, count), timeout=20)
    ids = {line["next_history_id"] for line in mesh.auth.log(message="history.lost")}
    told = mesh.history()
    assert told.history.history_id in ids
    assert ids - {told.history.history_id} < {one.history_id for one in told.lost}


def _has_answered(mesh: Mesh, count: int) -> bool:
    return len(mesh.auth.log(message="history.lost")) == count


def test_an_etcd_that_was_emptied_begins_anew_and_takes_nothing_of_before(mesh: Mesh) -> None:
    probe = mesh.probe()
    with mesh.people() as people:
        alice = people.sign_in("alice")
        assert serves(probe, "Unary", alice.access_token)
    with EtcdClient(mesh.settings) as etcd:
        etcd.commit([], [Delete(mesh.settings.prefix, prefix=True)])
    wait_until(lambda: mesh.auth.log(message="history.lost"))
    wait_until(lambda: reason(probe, "Unary", alice.access_token) in GONE)


def test_a_mesh_that_lost_nothing_says_so_whatever_restarts(mesh: Mesh) -> None:
    """The false alarm would sign everybody out."""
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
    told = mesh.history()
    assert told.history.history_id == history_id
    assert not told.lost
    assert told.history.HasField("vouched_at")
    with mesh.people() as people:
        answer = people.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=alice.refresh_token), timeout=10)
        assert serves(probe, "Fresh", answer.credentials.access_token)
