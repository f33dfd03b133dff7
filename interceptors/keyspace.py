"""Where things lie in etcd.

<prefix>mesh/keys/<kid>        verification keys                       read by every node
<prefix>mesh/signing           which key signs
<prefix>mesh/epochs/all        epochs: everyone,
<prefix>mesh/epochs/sub/<…>    a subject's,
<prefix>mesh/epochs/sid/<…>    a session's, client/<…> a client's, aud/<…> an audience's,
<prefix>mesh/epochs/kid/<…>    a signing key's, if it was revoked: it kills whatever the key signed
<prefix>mesh/barriers/<id>     somebody waits for every node
<prefix>mesh/history           which history of etcd the mesh rests on
<prefix>mesh/beacon            put by every transaction that changes one of the above
<prefix>nodes/<id>             registered nodes                        written by nodes, under their lease
<prefix>acks/<id>/<node id>    answers to a barrier
<prefix>auth/…                 vault, sessions, users, clients, lifetimes, leader, check: the auth service's alone

Everything that a node must know lies below mesh/, so that one watch sees it all in the order of its commits, and so
that an etcd role for nodes is two ranges: read mesh/, write nodes/ and acks/.
"""

from __future__ import annotations

import secrets
from urllib.parse import quote, unquote

from interceptors.etcd.records import Put

__all__ = ["Layout", "moved_beacon"]


class Layout:
    """The etcd keys under one prefix. Names that come from outside are percent-encoded, so they cannot leave it."""

    def __init__(self, prefix: str = "/credmesh/") -> None:
        self.prefix = prefix
        self.mesh = prefix + "mesh/"
        self.keys = self.mesh + "keys/"
        self.signing = self.mesh + "signing"
        self.epochs = self.mesh + "epochs/"
        self.barriers = self.mesh + "barriers/"
        self.history = self.mesh + "history"
        self.beacon = self.mesh + "beacon"
        self.nodes = prefix + "nodes/"
        self.acks = prefix + "acks/"
        self.vault = prefix + "auth/vault/"
        self.sessions = prefix + "auth/sessions/"
        self.users = prefix + "auth/users/"
        self.clients = prefix + "auth/clients/"
        self.lifetimes = prefix + "auth/lifetimes/"
        self.rotation = prefix + "auth/rotation"
        self.leader = prefix + "auth/leader"
        self.check = prefix + "auth/check"

    def key(self, kid: str) -> str:
        """A verification key."""
        return self.keys + quote(kid, safe="")

    def epoch(self, scope: str) -> str:
        """A scope's epoch; `scope` comes from interceptors.scopes."""
        return self.epochs + scope

    def barrier(self, barrier_id: str) -> str:
        """A barrier."""
        return self.barriers + barrier_id

    def ack(self, barrier_id: str, node_id: str) -> str:
        """A node's answer to a barrier."""
        return f"{self.acks}{barrier_id}/{quote(node_id, safe='')}"

    def node(self, node_id: str) -> str:
        """A registered node."""
        return self.nodes + quote(node_id, safe="")

    def sealed_key(self, kid: str) -> str:
        """A sealed private key."""
        return self.vault + quote(kid, safe="")

    def session(self, session_id: str) -> str:
        """A session."""
        return self.sessions + quote(session_id, safe="")

    def user(self, subject: str) -> str:
        """A user."""
        return self.users + quote(subject, safe="")

    def client(self, client_id: str) -> str:
        """A client."""
        return self.clients + quote(client_id, safe="")

    def name(self, key: str, directory: str) -> str:
        """The decoded name of a key right below a directory, the reverse of the above."""
        return unquote(key.removeprefix(directory))


def moved_beacon(layout: Layout) -> Put:
    """Moves the beacon: part of every commit that changes something below mesh/.

    What it holds is random. In a restored etcd other commits come to have the revisions of those that were lost, and by
    it they are told apart (see interceptors.trust.continuity).
    """
    return Put(layout.beacon, secrets.token_bytes(8))
