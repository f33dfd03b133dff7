"""The composition root: makes the parts of a replica, starts them, and stops them in reverse order."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.address_budget import AddressBudget
from authsvc.accounts.caller_address import CallerAddresses
from authsvc.accounts.login_throttle import LoginThrottle
from authsvc.accounts.passwords import Passwords
from authsvc.api.account_service import AccountServicer
from authsvc.api.auth_service import AuthServicer
from authsvc.api.history_service import HistoryServicer
from authsvc.api.key_service import KeyServicer
from authsvc.api.node_service import NodeServicer
from authsvc.api.revocation_service import RevocationServicer
from authsvc.api.session_service import SessionServicer
from authsvc.api.status_mapping import StatusMappingInterceptor
from authsvc.continuity.guard import ContinuityGuard
from authsvc.continuity.watermark import Watermark
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.coordination.election import LeaderElection
from authsvc.http.server import HttpServer
from authsvc.keys.revoker import KeyRevoker
from authsvc.keys.rotator import Rotator
from authsvc.keys.signer_cache import SignerCache
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
from interceptors.trust.bundle import TrustBundle

__all__ = ["run"]

_log: Final = logging.getLogger("credmesh.auth")

_WORKERS_PER_PASSWORD_WORKER: Final = 32
"""Threads of the server. There are more than logins may occupy, so that a flood of logins leaves threads for refreshes
and revocations."""

_SERVICES: Final = tuple(
    descriptor.full_name
    for module in (auth_pb2, accounts_pb2, history_pb2, keys_pb2, nodes_pb2, revocation_pb2, sessions_pb2)
    for descriptor in module.DESCRIPTOR.services_by_name.values()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The parts of a replica, each made with the parts that it uses."""

    settings: AuthSettings
    layout: Layout
    etcd: EtcdClient
    vault: Vault
    passwords: Passwords
    issuer: Issuer
    revoker: Revoker
    sessions: Sessions
    node: MeshNode
    ack_tracker: AckTracker
    guard: ContinuityGuard
    directory: SessionDirectory


def run(settings: AuthSettings) -> None:
    """Runs one replica until SIGTERM or SIGINT. Waits for etcd as long as it takes, and logs that it waits.

    Raises SettingsError and CredmeshError for problems that an operator can repair, and SystemExit(1) if the port is
    taken. Must be called from the main thread.
    """
    with ExitStack() as stack:
        parts = _make_parts(settings, stack)
        _start_parts(parts, stack)
        serve(
            partial(_add_servicers, parts),
            node=parts.node,
            settings=settings.server,
            services=_SERVICES,
            interceptors=(StatusMappingInterceptor(),),
            workers=_WORKERS_PER_PASSWORD_WORKER * (settings.password_workers + 1),
        )


def _make_parts(settings: AuthSettings, stack: ExitStack) -> _Parts:
    """Makes the parts, and starts none of them. The stack closes those that need no start."""
    vault = Vault(*read_keks(file=settings.kek_file, text=settings.kek))
    layout = Layout(settings.mesh.etcd.prefix)
    etcd = stack.enter_context(EtcdClient(settings.mesh.etcd))
    passwords = Passwords(workers=settings.password_workers)
    stack.callback(passwords.close)
    bundle = TrustBundle(layout, settings.mesh.issuer)
    issuer = Issuer(
        etcd=etcd, layout=layout, signers=SignerCache(etcd, layout, vault), settings=settings, bundle=bundle
    )
    revoker = Revoker(etcd, layout, settings)
    directory = SessionDirectory(settings.mesh.etcd, layout)
    sessions = Sessions(
        etcd=etcd, layout=layout, issuer=issuer, revocation=revoker, settings=settings, directory=directory
    )
    node = MeshNode(settings.mesh, resolver=LocalSessionResolver(sessions), bundle=bundle)
    ack_tracker = AckTracker(settings.mesh.etcd, etcd, layout)
    guard = ContinuityGuard(
        etcd=etcd,
        layout=layout,
        node_id=node.id,
        monitor=bundle.monitor,
        ack_tracker=ack_tracker,
        revoker=revoker,
        watermark=Watermark(settings.watermark_file, layout.prefix),
    )
    return _Parts(
        settings=settings,
        layout=layout,
        etcd=etcd,
        vault=vault,
        passwords=passwords,
        issuer=issuer,
        revoker=revoker,
        sessions=sessions,
        node=node,
        ack_tracker=ack_tracker,
        guard=guard,
        directory=directory,
    )


def _start_parts(parts: _Parts, stack: ExitStack) -> None:
    """Starts the parts, and waits for etcd. The stack stops them in reverse order."""
    settings, node = parts.settings, parts.node
    if settings.http_listen:
        # Before the wait for etcd: a probe can then tell a replica that waits from one that is dead.
        http = HttpServer(node, settings.http_listen)
        stack.callback(http.stop)
        http.start()
    _log.info("reading the mesh's state from etcd at %s", ", ".join(settings.mesh.etcd.endpoints))
    stack.enter_context(parts.ack_tracker)
    stack.callback(parts.guard.stop)
    parts.guard.start()
    stack.callback(node.stop)
    # After the guard: if etcd has lost a part of its history, no node becomes ready before the guard's recovery.
    # Without a wait for strict methods: no replica may have vouched for the history yet.
    node.start(strict_timeout=0)
    stack.callback(parts.directory.stop)
    parts.directory.start()
    # After the node is registered: a new signing key must wait for this replica's own acknowledgement, too.
    election = _make_election(parts)
    stack.callback(election.stop)
    election.start()


def _make_election(parts: _Parts) -> LeaderElection:
    settings, etcd, layout = parts.settings, parts.etcd, parts.layout
    rotator = Rotator(
        etcd,
        layout,
        parts.vault,
        rotation_interval=settings.rotation_interval,
        token_lifetime=settings.token_lifetime,
        leeway=settings.mesh.leeway,
        algorithm=settings.key_algorithm,
        proceed_after=settings.rotation_proceed_after or math.inf,
        proceed_unsigned_after=settings.rotation_proceed_unsigned_after,
    )
    expiry = SessionExpiry(etcd=etcd, layout=layout, directory=parts.directory, revocation=parts.revoker)
    jobs = (rotator.step, expiry.step, parts.guard.vouch_job)
    return LeaderElection(settings.mesh.etcd, layout, parts.node.id, settings.leader_lease, jobs=jobs)


def _add_servicers(parts: _Parts, server: grpc.Server) -> None:
    settings, etcd, layout, node = parts.settings, parts.etcd, parts.layout, parts.node
    receipts = Receipts(
        etcd,
        layout,
        parts.ack_tracker,
        longest_freshness=settings.mesh.longest_freshness,
        remember_commit=parts.guard.remember_commit,
    )
    accounts = Accounts(etcd, layout, parts.passwords, parts.revoker)
    throttle = LoginThrottle(
        per_account=settings.login_failures_per_account, per_address=settings.login_failures_per_address
    )
    auth_pb2_grpc.add_AuthServiceServicer_to_server(
        AuthServicer(
            accounts=accounts,
            throttle=throttle,
            token_lookups=AddressBudget(settings.token_lookups_per_address),
            addresses=CallerAddresses(settings.trusted_proxies),
            issuer=parts.issuer,
            sessions=parts.sessions,
            introspection=Introspection(node=node, sessions=parts.sessions),
            node=node,
        ),
        server,
    )
    accounts_pb2_grpc.add_AccountServiceServicer_to_server(AccountServicer(accounts=accounts), server)
    keys_pb2_grpc.add_KeyServiceServicer_to_server(
        KeyServicer(
            etcd=etcd,
            layout=layout,
            ack_tracker=parts.ack_tracker,
            receipts=receipts,
            revoker=KeyRevoker(etcd, layout, parts.revoker),
        ),
        server,
    )
    nodes_pb2_grpc.add_NodeServiceServicer_to_server(
        NodeServicer(etcd=etcd, layout=layout, ack_tracker=parts.ack_tracker), server
    )
    history_pb2_grpc.add_HistoryServiceServicer_to_server(HistoryServicer(etcd=etcd, layout=layout), server)
    revocation_pb2_grpc.add_RevocationServiceServicer_to_server(
        RevocationServicer(revocation=parts.revoker, receipts=receipts), server
    )
    sessions_pb2_grpc.add_SessionServiceServicer_to_server(
        SessionServicer(sessions=parts.sessions, directory=parts.directory, receipts=receipts), server
    )
