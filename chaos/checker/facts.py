"""Facts from the operation log: credentials issued, revocations, restores, registrations, and the setting of clocks."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.operation_log import Record
from interceptors.scopes import EVERYONE, audience_scope, client_scope, key_scope, session_scope, subject_scope

__all__ = ["NO_CALM", "TRAIL_LENGTH", "Activation", "Facts", "Issue", "Revocation"]

_RESTORE_NOTICED_SECONDS: Final = 12.0
"""Seconds after a restore within which every process must have noticed it."""

TRAIL_LENGTH: Final = 6
"""The number of messages that must be too late, a fifth of a second apart, before a stream counts as continued. A
process that was stopped sends one or two before its other threads have noticed that time has passed."""

NO_CALM: Final = "no calm"
"""The operation that replaces "calm" if etcd's members disagreed in it."""

_UNSEEN_SECONDS: Final = 1.0
"""Seconds before a restore in which the observer can have missed commits."""


@dataclass(slots=True, eq=False)
class Issue:
    """A credential that was issued.

    record       its record in the operation log
    scopes       the revocation scopes that it belongs to
    incarnation  etcd's incarnation in which it was issued; None if etcd was restored meanwhile
    """

    record: Record
    scopes: tuple[str, ...]
    incarnation: int | None

    @property
    def asked(self) -> float:
        """When it was requested (monotonic seconds, as all times here)."""
        return float(self.record["t"])

    @property
    def answered(self) -> float:
        """When the client received it."""
        return float(self.record["u"])

    @property
    def epoch(self) -> int | None:
        """Its epoch; None for an opaque session."""
        return self.record.get("epoch")

    @property
    def kid(self) -> str | None:
        """The key that signed it."""
        return self.record.get("kid")

    @property
    def session(self) -> str | None:
        """The session behind it."""
        return self.record.get("sid")


@dataclass(slots=True, eq=False)
class Revocation:
    """A revocation that certainly happened.

    revision      its epoch
    committed_by  the moment by which it was committed
    asked         when it was requested; infinity if only the observer logged it
    answered      when it was acknowledged; infinity if it was not
    receipt       its receipt; see chaos.clients.mesh_client
    in_etcd       whether the observer has logged it
    record        the record of the request; None if only the observer logged it
    """

    scope: str
    incarnation: int | None
    revision: int
    committed_by: float
    asked: float = math.inf
    answered: float = math.inf
    receipt: Record | None = None
    in_etcd: bool = False
    record: Record | None = None


@dataclass(slots=True)
class _Membership:
    """The revisions between which a node was registered: from `since`, up to `until`."""

    id: str
    name: str
    incarnation: int
    since: int
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Activation:
    """The activation of a key.

    prepared         the revision at which it became PREPARED
    revision         the revision at which it became ACTIVE
    had_predecessor  whether another key was ACTIVE until then
    missing_acks     nodes that were registered all the time between, and have not acknowledged the key
    """

    record: Record
    incarnation: int
    prepared: int
    revision: int
    had_predecessor: bool
    missing_acks: tuple[str, ...]


@dataclass(slots=True)
class Facts:
    """See the module. Times are monotonic seconds.

    revocations             by scope
    key_revocations         by kid: revocations of keys, which revoke what the keys signed
    written_without_leader  changes of keys and of the signing key, which only a leader makes, while there was no leader
    """

    records: Sequence[Record]
    meta: Record = field(init=False)
    by_op: dict[str, list[Record]] = field(init=False)
    issues: dict[str, Issue] = field(init=False)
    revocations: dict[str, list[Revocation]] = field(init=False)
    key_revocations: dict[str, list[Revocation]] = field(init=False)
    restores: list[tuple[float, float]] = field(init=False)
    disagreements: list[tuple[float, float]] = field(init=False)
    gaps: bool = field(init=False, default=False)
    signing: dict[str, Activation] = field(init=False)
    written_without_leader: list[Record] = field(init=False)
    _recovered_at: list[float] = field(init=False)
    _wrong_clocks: dict[str, list[tuple[float, float]]] = field(init=False)
    _clock_settings: dict[str, list[tuple[float, float]]] = field(init=False)
    _members: list[_Membership] = field(init=False)
    _later_revisions: dict[int, tuple[list[float], list[int]]] = field(init=False)

    def _find_disagreements(self) -> list[tuple[float, float]]:
        """The periods in which etcd's members may have disagreed (etcd-io/etcd#13766).

        Each begins with the last calm in which they agreed, and ends when etcd is restored.
        """
        periods = []
        for found in self.by_op[NO_CALM]:
            since = max((calm["u"] for calm in self.by_op["calm"] if calm["u"] <= found["t"]), default=-math.inf)
            until = min((one["u"] for one in self.by_op["restore"] if one["t"] >= found["u"]), default=math.inf)
            periods.append((since, until))
        return periods

    def __post_init__(self) -> None:
        self.by_op = defaultdict(list)
        for record in self.records:
            # If etcd's members disagree, reads alternate between their states, and no mesh can recover.
            self.by_op[NO_CALM if record.get("disagreement") else record["op"]].append(record)
        self.meta = self.by_op["meta"][0]
        self.disagreements = self._find_disagreements()
        self.restores = [(one["t"], one["u"]) for one in self.by_op["restore"]]
        self.issues = {
            one["cred"]: Issue(one, _scopes(one), self.incarnation(one["t"], one["u"]))
            for op in ("login", "refresh")
            for one in self.by_op[op]
            if one["answer"] == "ok"
        }
        self._read_recoveries()
        self._read_clocks()
        self._read_members()
        self._read_signing()
        self._read_revocations()
        self._read_key_revocations()
        self._read_leaderless_writes()
        self._read_later_revisions()

    def incarnation(self, since: float, until: float) -> int | None:
        """etcd's incarnation between two moments; None if a restore overlaps that time."""
        ended = [u for _, u in self.restores]
        incarnation = bisect_right(ended, since)
        if incarnation < len(self.restores) and until >= self.restores[incarnation][0]:
            return None
        return incarnation

    def in_unsettled_history(self, since: float, until: float) -> bool:
        """Whether there was a restore before `until`, and no calm since: by a calm, every node must have noticed it."""
        calms = [one["t"] for one in self.by_op["calm"]]
        return any(t <= until and not any(u <= calm <= since for calm in calms) for t, u in self.restores)

    def ended_by_restore(self, issue: Issue, until: float) -> bool:
        """Whether a restore that began before `until` ended a credential, because it was issued before the recovery.

        A credential that is issued before a process notices the restore ends when the mesh recovers from the loss.
        """
        return any(
            t <= until and issue.asked <= answered
            for (t, _), answered in zip(self.restores, self._recovered_at, strict=True)
        )

    def clocks_were_right(self, names: Sequence[str], since: float, until: float) -> bool:
        """Whether the wall clocks of these parts were certainly right all the time."""
        return not any(
            begins <= until and since <= ends for name in names for begins, ends in self._wrong_clocks.get(name, ())
        )

    def clock_may_have_been_set(self, name: str, since: float, until: float) -> bool:
        """Whether a part's wall clock can have been set in this time."""
        return any(begins <= until and since <= ends for begins, ends in self._clock_settings.get(name, ()))

    def was_registered(self, name: str, incarnation: int, revision: int) -> bool:
        """Whether a process of this part was registered at a revision."""
        return any(
            one.name == name and one.incarnation == incarnation and one.since < revision < one.until
            for one in self._members
        )

    def registered_throughout(self, incarnation: int, revision: int, moment: float) -> Iterator[str]:
        """Yields the ids of nodes that were certainly registered all the time from a revision until a moment.

        A revocation that was requested after the moment, and that the observer logged, was committed after the moment.
        """
        asked, revisions = self._later_revisions.get(incarnation, ([], []))
        after = bisect_right(asked, moment)
        if after < len(revisions):
            ids = (one for one in self._members if one.incarnation == incarnation)
            yield from (one.id for one in ids if one.since < revision and revisions[after] < one.until)

    def revocation_requested(self, scope: str, before: float) -> bool:
        """Whether a revocation of this scope was requested before a moment, and can have been carried out."""
        asked = (one for one in self.by_op["revoke"] if one["scope"] == scope and one["t"] <= before)
        return any(one["answer"] in ("ok", "none") for one in asked)

    def key_revocation_requested(self, kid: str | None, before: float) -> bool:
        """Whether a revocation of this key was requested before a moment."""
        return any(one["kid"] == kid and one["t"] <= before for one in self.by_op["revoke-key"])

    def _read_clocks(self) -> None:
        """Two records are logged each time a clock is set: one before, and one after."""
        self._wrong_clocks = defaultdict(list)
        self._clock_settings = defaultdict(list)
        begun: dict[str, tuple[float, float]] = {}
        for one in self.by_op["clock"]:
            who = one["who"]
            if one["before"] != one["ahead"]:
                begun[who] = (one["t"], one["before"])
                continue
            since, before = begun[who]
            self._clock_settings[who].append((since, one["u"]))
            if before:
                self._wrong_clocks[who][-1] = (self._wrong_clocks[who][-1][0], one["u"])
            else:
                self._wrong_clocks[who].append((since, math.inf))

    def _read_recoveries(self) -> None:
        """Computes when the mesh recovered from each restore: when it began a new history, or had to, at the latest."""
        self._recovered_at = []
        known: set[str] = set()
        records = list(self._etcd("history"))
        for t, u in self.restores:
            known |= {one["id"] for one in records if one["t"] < t}
            moments = [one["t"] for one in records if one["t"] >= u and one["id"] not in known]
            self._recovered_at.append(min([*moments, u + _RESTORE_NOTICED_SECONDS]))

    def _etcd(self, what: str) -> Iterator[Record]:
        return (one for one in self.by_op["etcd"] if one["what"] == what)

    def _read_members(self) -> None:
        """A node that is logged again after a gap has been registered since the revision of that record."""
        self._members = []
        alive: dict[tuple[int, str], _Membership] = {}
        latest: dict[int, int] = defaultdict(int)
        self.gaps = any(True for _ in self._etcd("gap"))
        for one in self.by_op["etcd"]:
            incarnation, revision = one["incarnation"], one["revision"]
            latest[incarnation] = max(latest[incarnation], revision)
            if one["what"] == "gap":
                for key in [key for key in alive if key[0] == incarnation]:
                    alive.pop(key).until = latest[incarnation] + 1
            if one["what"] != "node":
                continue
            key = (incarnation, one["id"])
            if one["gone"]:
                ended = alive.pop(key, None)
                if ended is not None:
                    ended.until = revision
            elif key not in alive:
                alive[key] = _Membership(one["id"], one["name"], incarnation, revision)
                self._members.append(alive[key])

    def _read_signing(self) -> None:
        self.signing = {}
        signs: dict[int, bool] = {}
        prepared: dict[tuple[int, str], int] = {}
        acks: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        for one in self._etcd("key"):
            prepared.setdefault((one["incarnation"], one["kid"]), one["revision"])
        for one in self._etcd("ack"):
            acks[one["incarnation"], one["id"]].append((one["revision"], one["applied"]))
        for one in self._etcd("signing"):
            incarnation, kid, revision = one["incarnation"], one["kid"], one["revision"]
            if not one["gone"] and kid not in self.signing:
                since = prepared.get((incarnation, kid)) or revision
                silent = [
                    member.id
                    for member in self._members
                    if member.incarnation == incarnation
                    and member.since < since
                    and revision < member.until
                    and not any(at < revision and since <= applied for at, applied in acks[incarnation, member.id])
                ]
                self.signing[kid] = Activation(
                    one, incarnation, since, revision, signs.get(incarnation, False), tuple(silent)
                )
            signs[incarnation] = not one["gone"]

    def _read_revocations(self) -> None:
        found: dict[tuple[str, int | None, int], Revocation] = {}
        for one in self._etcd("epoch"):
            if not one["gone"]:
                key = (one["scope"], one["incarnation"], one["revision"])
                found.setdefault(key, Revocation(*key, committed_by=one["u"], in_etcd=True))
        for one in self.by_op["revoke"]:
            if one["answer"] != "ok" or not one["revision"]:
                continue
            key = (one["scope"], self.incarnation(one["t"], one["u"]), one["revision"])
            revocation = found.setdefault(key, Revocation(*key, committed_by=one["u"]))
            revocation.committed_by = min(revocation.committed_by, one["u"])
            revocation.asked, revocation.answered = one["t"], one["u"]
            revocation.receipt, revocation.record = one.get("receipt"), one
        self.revocations = defaultdict(list)
        for revocation in found.values():
            self.revocations[revocation.scope].append(revocation)
        for revocations in self.revocations.values():
            revocations.sort(key=lambda one: one.committed_by)

    def _read_key_revocations(self) -> None:
        """The answer to a revocation can be lost; the observer's records count, too."""
        self.key_revocations = defaultdict(list)
        for kid in {one["kid"] for one in self.by_op["revoke-key"]}:
            self.key_revocations[kid].extend(self.revocations.get(key_scope(kid), ()))
        for one in self.by_op["revoke-key"]:
            if one["answer"] == "ok":
                self.key_revocations[one["kid"]].append(
                    Revocation(
                        f"key {one['kid']}",
                        self.incarnation(one["t"], one["u"]),
                        one["revision"],
                        committed_by=one["u"],
                        asked=one["t"],
                        answered=one["u"],
                        receipt=one.get("receipt"),
                        record=one,
                    )
                )

    def _read_leaderless_writes(self) -> None:
        """In etcd's order. Records before the first one about the leader prove nothing."""
        self.written_without_leader = []
        leads: dict[int, bool] = {}
        for one in self.by_op["etcd"]:
            if one["what"] == "leader":
                leads[one["incarnation"]] = not one["gone"]
            elif one["what"] == "gap":
                leads.pop(one["incarnation"], None)
            elif one["what"] in ("key", "signing") and not one["gone"] and not leads.get(one["incarnation"], True):
                self.written_without_leader.append(one)

    def _read_later_revisions(self) -> None:
        """By incarnation: the times of requests for revocations, and the least revision of those from each time on."""
        self._later_revisions = {}
        found: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for revocation in (one for scope in self.revocations.values() for one in scope):
            if revocation.in_etcd and revocation.asked < math.inf and revocation.incarnation is not None:
                found[revocation.incarnation].append((revocation.asked, revocation.revision))
        for incarnation, pairs in found.items():
            pairs.sort()
            least = list(itertools.accumulate((revision for _, revision in reversed(pairs)), min))
            self._later_revisions[incarnation] = ([asked for asked, _ in pairs], least[::-1])

    def may_be_unseen(self, moment: float) -> bool:
        """Whether the observer can have missed commits of this moment, because of a restore or a gap."""
        return self.gaps or any(t - _UNSEEN_SECONDS <= moment <= u for t, u in self.restores)


def _scopes(issued: Record) -> tuple[str, ...]:
    scopes = [EVERYONE, subject_scope(issued["subject"]), client_scope(issued["client"])]
    if issued.get("sid"):
        scopes.append(session_scope(issued["sid"]))
    return (*scopes, *map(audience_scope, issued["aud"]))
