"""The composition root: every part of a replica is made here, given what it needs, started, and stopped in order."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import grpc

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.login_throttle import LoginThrottle
from authsvc.accounts.passwords import Passwords
from authsvc.api.account_service import AccountServicer
from authsvc.api.auth_service import AuthServicer
from authsvc.api.errors import AnswerErrors
from authsvc.api.history_service import HistoryServicer
from authsvc.api.key_service import KeyServicer
from authsvc.api.node_service import NodeServicer
from authsvc.api.revocation_service import RevocationServicer
from authsvc.api.session_service import SessionServicer
from authsvc.continuity.guard import ContinuityGuard
from authsvc.continuity.watermark import Watermark
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.coordination.election import LeaderElection
from authsvc.http.server import HttpFace
from authsvc.keys.revoker import KeyRevoker
from authsvc.keys.ring import KeyRing
from authsvc.keys.rotator import Rotator
from authsvc.keys.vault import Vault, read_keks
from authsvc.revocation.receipts import Receipts
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.directory import SessionDirectory
from authsvc.sessions.expiry import SessionExpiry
from authsvc.sessions.introspection import Introspection
from authsvc.sessions.issuer import Issuer
from authsvc.sessions.sessions import LocalSessionResolver, Sessions
from authsvc.settings import AuthSettings
from credmesh.admin.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    nodes_pb2,
    nodes_pb2_grpc,
    revocation_pb2,
    revocation_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.node.mesh_node import MeshNode
from interceptors.serving import serve

__all__ = ["run"]

_log: Final = logging.getLogger("credmesh.auth")

# More than passwords may wait: a flood of logins must leave threads for those who refresh and revoke.
_WORKERS_PER_PASSWORD: Final = 32

_SERVICES: Final = tuple(
    descriptor.full_name
    for module in (auth_pb2, accounts_pb2, history_pb2, keys_pb2, nodes_pb2, revocation_pb2, sessions_pb2)
    for descriptor in module.DESCRIPTOR.services_by_name.values()
)


def run(settings: AuthSettings) -> None:
    """Runs one replica until SIGTERM or SIGINT. Waits for etcd as long as it takes, and its log says so.

    Raises SettingsError and CredmeshError for what an operator can repair; SystemExit(1) if the port is taken. Must be
    called from the main thread.
    """
    vault = Vault(*read_keks(file=settings.kek_file, text=settings.kek))
    layout = Layout(settings.mesh.etcd.prefix)
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdClient(settings.mesh.etcd))
        passwords = Passwords(workers=settings.password_workers)
        stack.callback(passwords.close)
        ring = KeyRing(etcd, layout, vault)
        issuer = Issuer(etcd=etcd, layout=layout, ring=ring, settings=settings)
        revocation = Revoker(etcd, layout, settings)
        sessions = Sessions(etcd=etcd, layout=layout, issuer=issuer, revocation=revocation, settings=settings)
        node = MeshNode(settings.mesh, resolver=LocalSessionResolver(sessions))
        issuer.lifetime.witness = node.bundle
        if settings.http_listen:
            # Before etcd is waited for: a probe can then tell a replica that waits from one that is dead.
            http = HttpFace(node, settings.http_listen)
            stack.callback(http.stop)
            http.start()
        _log.info("reading the mesh's state from etcd at %s", ", ".join(settings.mesh.etcd.endpoints))
        watermark = Watermark(settings.memory_file, layout.prefix)
        ack_tracker = stack.enter_context(AckTracker(settings.mesh.etcd, etcd, layout))
        guard = ContinuityGuard(
            etcd=etcd,
            layout=layout,
            node_id=node.id,
            monitor=node.bundle.continuity,
            ack_tracker=ack_tracker,
            revocation=revocation,
            watermark=watermark,
        )
        stack.callback(guard.stop)
        guard.start()
        stack.callback(node.stop)
        # The guard is up already: in an etcd that has lost something no node gets ready before that is answered. And
        # nobody can vouch for its history before a replica leads.
        node.start(strict_timeout=0)
        directory = SessionDirectory(settings.mesh.etcd, layout)
        stack.callback(directory.stop)
        directory.start()
        _lead(stack, settings, etcd, layout, vault, node, directory, revocation, guard)
        serve(
            _servicers(
                settings, etcd, layout, passwords, issuer, sessions, revocation, node, directory, ack_tracker, guard
            ),
            node=node,
            settings=settings.server,
            services=_SERVICES,
            interceptors=(AnswerErrors(),),
            workers=_WORKERS_PER_PASSWORD * (settings.password_workers + 1),
        )


def _lead(
    stack: ExitStack,
    settings: AuthSettings,
    etcd: EtcdClient,
    layout: Layout,
    vault: Vault,
    node: MeshNode,
    directory: SessionDirectory,
    revocation: Revoker,
    guard: ContinuityGuard,
) -> None:
    """Campaigns for the lead. Only a registered node may: its own acknowledgement of a new key must be waited for."""
    rotator = Rotator(
        etcd,
        layout,
        vault,
        rotation_interval=settings.rotation_interval,
        token_lifetime=settings.token_lifetime,
        leeway=settings.mesh.leeway,
        algorithm=settings.key_algorithm,
        proceed_after=settings.rotation_proceed_after or math.inf,
        proceed_unsigned_after=settings.rotation_proceed_unsigned_after,
    )
    expiry = SessionExpiry(etcd=etcd, layout=layout, directory=directory, revocation=revocation)
    jobs = (rotator.step, expiry.step, guard.vouch)
    leader = LeaderElection(settings.mesh.etcd, layout, node.id, settings.leader_lease, jobs=jobs)
    stack.callback(leader.stop)
    leader.start()


def _servicers(
    settings: AuthSettings,
    etcd: EtcdClient,
    layout: Layout,
    passwords: Passwords,
    issuer: Issuer,
    sessions: Sessions,
    revocation: Revoker,
    node: MeshNode,
    directory: SessionDirectory,
    ack_tracker: AckTracker,
    guard: ContinuityGuard,
) -> Callable[[grpc.Server], None]:
    receipts = Receipts(
        etcd, layout, ack_tracker, longest_freshness=settings.mesh.longest_freshness, remember=guard.note
    )
    accounts = Accounts(etcd, layout, passwords, revocation)
    throttle = LoginThrottle(
        per_account=settings.login_failures_per_account, per_address=settings.login_failures_per_address
    )

    def add(server: grpc.Server) -> None:
        auth_pb2_grpc.add_AuthServiceServicer_to_server(
            AuthServicer(
                accounts=accounts,
                throttle=throttle,
                issuer=issuer,
                sessions=sessions,
                introspection=Introspection(node=node, sessions=sessions),
                node=node,
            ),
            server,
        )
        accounts_pb2_grpc.add_AccountServiceServicer_to_server(AccountServicer(accounts=accounts), server)
        keys_pb2_grpc.add_KeyServiceServicer_to_server(
            KeyServicer(
                etcd=etcd,
                layout=layout,
                ack_tracker=ack_tracker,
                receipts=receipts,
                revoker=KeyRevoker(etcd, layout, revocation),
            ),
            server,
        )
        nodes_pb2_grpc.add_NodeServiceServicer_to_server(
            NodeServicer(etcd=etcd, layout=layout, ack_tracker=ack_tracker), server
        )
        history_pb2_grpc.add_HistoryServiceServicer_to_server(HistoryServicer(etcd=etcd, layout=layout), server)
        revocation_pb2_grpc.add_RevocationServiceServicer_to_server(
            RevocationServicer(revocation=revocation, receipts=receipts), server
        )
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionServicer(sessions=sessions, directory=directory, receipts=receipts), server
        )

    return add
