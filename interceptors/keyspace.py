"""The layout of the mesh in etcd. interceptors/scopes.py names the epochs.

<prefix>mesh/keys/<kid>        verification keys                       read by every node
<prefix>mesh/signing           which key signs
<prefix>mesh/epochs/all        epochs: everyone,
<prefix>mesh/epochs/sub/<…>    a subject's,
<prefix>mesh/epochs/sid/<…>    a session's, client/<…> a client's, aud/<…> an audience's,
<prefix>mesh/epochs/kid/<…>    a signing key's, if it was revoked: it revokes everything that the key signed
<prefix>mesh/barriers/<id>     barriers: every node acknowledges them
<prefix>mesh/history           which history of etcd the mesh rests on
<prefix>mesh/beacon            put by every transaction that changes one of the above
<prefix>nodes/<id>             registered nodes                        written by nodes, under their lease
<prefix>acks/<id>/<node id>    acknowledgements of a barrier
<prefix>auth/…                 vault, sessions, users, clients, lifetimes, rotation, leader, check: the auth service's

Everything that a node needs is below mesh/. So one watch brings it all in the order of its commits, and the etcd role
of a node is: read mesh/, write nodes/ and acks/.
"""

from __future__ import annotations

import secrets
from urllib.parse import quote, unquote

from interceptors.etcd.records import Put

__all__ = ["Layout", "beacon_update"]


class Layout:
    """The etcd keys below one prefix. Names are percent-encoded, so a name cannot reach outside its directory."""

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
        """Returns the key of a verification key."""
        return self.keys + quote(kid, safe="")

    def epoch(self, scope: str) -> str:
        """Returns the key of a scope's epoch. scope: from interceptors.scopes."""
        return self.epochs + scope

    def barrier(self, barrier_id: str) -> str:
        """Returns the key of a barrier."""
        return self.barriers + barrier_id

    def ack(self, barrier_id: str, node_id: str) -> str:
        """Returns the key of a node's acknowledgement of a barrier."""
        return f"{self.acks}{barrier_id}/{quote(node_id, safe='')}"

    def node(self, node_id: str) -> str:
        """Returns the key of a registered node."""
        return self.nodes + quote(node_id, safe="")

    def sealed_key(self, kid: str) -> str:
        """Returns the key of a sealed private key."""
        return self.vault + quote(kid, safe="")

    def session(self, session_id: str) -> str:
        """Returns the key of a session."""
        return self.sessions + quote(session_id, safe="")

    def user(self, subject: str) -> str:
        """Returns the key of a user."""
        return self.users + quote(subject, safe="")

    def client(self, client_id: str) -> str:
        """Returns the key of a client."""
        return self.clients + quote(client_id, safe="")

    def name(self, key: str, directory: str) -> str:
        """Returns the decoded name of a key directly below a directory: the inverse of the methods above."""
        return unquote(key.removeprefix(directory))


def beacon_update(layout: Layout) -> Put:
    """Returns the operation that puts the beacon. It is part of every commit that changes something below mesh/.

    The value is random. In a restored etcd other commits get the revisions of those that were lost; the beacon's value
    tells them apart (interceptors.trust.continuity).
    """
    return Put(layout.beacon, secrets.token_bytes(8))
