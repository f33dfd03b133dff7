"""The history by what it is about: what was issued, revoked, restored; who was a member, and how clocks stood."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.history import Record
from interceptors.scopes import EVERYONE, audience_scope, client_scope, key_scope, session_scope, subject_scope

__all__ = ["NO_CALM", "SETTLE", "TRAIL", "Activation", "Facts", "Issue", "Revoker"]

SETTLE: Final = 12.0
"""Seconds after a restore in which it must have been noticed everywhere."""

TRAIL: Final = 6
"""So many messages of a stream must be too late, a fifth of a second apart: a process that stood still says one or two
before its other threads have noticed that time has passed."""

NO_CALM: Final = "no calm"
"""What a calm counts as in which etcd itself had fallen apart."""

_UNSEEN: Final = 1.0
"""Seconds before a restore in which the observer may have missed the last commits."""


@dataclass(slots=True, eq=False)
class Issue:
    """A credential that was issued.

    scopes          those whose revocation is one of it
    life            the life of etcd that it was issued in; None if a restore came between
    epoch           what it says of itself; None for an opaque session
    record          as the history has it
    """

    record: Record
    scopes: tuple[str, ...]
    life: int | None

    @property
    def asked(self) -> float:
        """When it was asked for (monotonic seconds, as all times here)."""
        return float(self.record["t"])

    @property
    def answered(self) -> float:
        """When the client had it."""
        return float(self.record["u"])

    @property
    def epoch(self) -> int | None:
        """The revision as of which it counts as issued."""
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
class Revoker:
    """A revocation that certainly happened.

    asked      when it was asked for; infinity if only etcd tells of it
    known      by then it was committed
    answered   when it was acknowledged; infinity if it was not
    revision   its epoch
    receipt    what was said about nodes; see chaos.clients.asking
    """

    scope: str
    life: int | None
    revision: int
    known: float
    asked: float = math.inf
    answered: float = math.inf
    receipt: Record | None = None
    seen: bool = False
    record: Record | None = None


@dataclass(slots=True)
class _Membership:
    """When a node was registered, by revision: from `since`, up to `until`."""

    id: str
    name: str
    life: int
    since: int
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Activation:
    """A key began to sign.

    prepared  the revision at which it was prepared
    revision  the one at which it began to sign
    in_turn   whether another one had signed up to then
    without   nodes that were registered all that time, and have not said that they hold it
    """

    record: Record
    life: int
    prepared: int
    revision: int
    in_turn: bool
    without: tuple[str, ...]


@dataclass(slots=True)
class Facts:
    """See the module. Times are monotonic seconds.

    revocations  by scope
    removed      by kid: of keys that were removed by force, which is a revocation of what they signed
    unled        what only a leader writes, and was written while nobody led: keys, and which of them signs
    """

    history: Sequence[Record]
    meta: Record = field(init=False)
    by_op: dict[str, list[Record]] = field(init=False)
    issues: dict[str, Issue] = field(init=False)
    revocations: dict[str, list[Revoker]] = field(init=False)
    removed: dict[str, list[Revoker]] = field(init=False)
    restores: list[tuple[float, float]] = field(init=False)
    gaps: bool = field(init=False, default=False)
    signing: dict[str, Activation] = field(init=False)
    unled: list[Record] = field(init=False)
    _answered: list[float] = field(init=False)
    _wrong: dict[str, list[tuple[float, float]]] = field(init=False)
    _turned: dict[str, list[tuple[float, float]]] = field(init=False)
    _members: list[_Membership] = field(init=False)
    _later: dict[int, tuple[list[float], list[int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_op = defaultdict(list)
        for record in self.history:
            # Where etcd's members disagree, whatever is read is now this and now that: no mesh gets well by that.
            self.by_op[NO_CALM if record.get("disagreement") else record["op"]].append(record)
        self.meta = self.by_op["meta"][0]
        self.restores = [(one["t"], one["u"]) for one in self.by_op["restore"]]
        self.issues = {
            one["cred"]: Issue(one, _scopes(one), self.life(one["t"], one["u"]))
            for op in ("login", "refresh")
            for one in self.by_op[op]
            if one["answer"] == "ok"
        }
        self._read_histories()
        self._read_clocks()
        self._read_members()
        self._read_signing()
        self._read_revocations()
        self._read_removed()
        self._read_terms()
        self._read_later()

    def life(self, since: float, until: float) -> int | None:
        """The life of etcd in which something happened between two moments; None if a restore touched that time."""
        ended = [u for _, u in self.restores]
        life = bisect_right(ended, since)
        if life < len(self.restores) and until >= self.restores[life][0]:
            return None
        return life

    def unsettled(self, since: float, until: float) -> bool:
        """Whether there was a restore by then, and no calm between: in a calm, every node knows where it is."""
        calms = [one["t"] for one in self.by_op["calm"]]
        return any(t <= until and not any(u <= calm <= since for calm in calms) for t, u in self.restores)

    def crossed(self, issue: Issue, until: float) -> bool:
        """Whether a restore ended a credential: one that had begun by then, and was not answered when it was issued.

        What is issued before anybody has noticed the restore ends with everything else when somebody does.
        """
        return any(
            t <= until and issue.asked <= answered
            for (t, _), answered in zip(self.restores, self._answered, strict=True)
        )

    def clocks_right(self, names: Sequence[str], since: float, until: float) -> bool:
        """Whether these parts' wall clocks were certainly right all the time."""
        return not any(
            begins <= until and since <= ends for name in names for begins, ends in self._wrong.get(name, ())
        )

    def clock_moved(self, name: str, since: float, until: float) -> bool:
        """Whether a part's wall clock may have been set in this time."""
        return any(begins <= until and since <= ends for begins, ends in self._turned.get(name, ()))

    def member_at(self, name: str, life: int, revision: int) -> bool:
        """Whether a process of this part was registered at a revision."""
        return any(one.name == name and one.life == life and one.since < revision < one.until for one in self._members)

    def members_between(self, life: int, revision: int, moment: float) -> Iterator[str]:
        """The ids of nodes that were certainly registered all the time from a revision until a moment.

        What was asked for after the moment, and the observer saw committed, was committed after it too.
        """
        asked, revisions = self._later.get(life, ([], []))
        after = bisect_right(asked, moment)
        if after < len(revisions):
            ids = (one for one in self._members if one.life == life)
            yield from (one.id for one in ids if one.since < revision and revisions[after] < one.until)

    def asked_for(self, scope: str, before: float) -> bool:
        """Whether anybody had asked for a revocation of this scope by then, and may have got it."""
        asked = (one for one in self.by_op["revoke"] if one["scope"] == scope and one["t"] <= before)
        return any(one["answer"] in ("ok", "none") for one in asked)

    def revoked_keys(self, kid: str | None, before: float) -> bool:
        """Whether anybody had tried to remove this key by then."""
        return any(one["kid"] == kid and one["t"] <= before for one in self.by_op["revoke-key"])

    def _read_clocks(self) -> None:
        """Each time a clock is set there are two records: right before, and right after."""
        self._wrong = defaultdict(list)
        self._turned = defaultdict(list)
        begun: dict[str, tuple[float, float]] = {}
        for one in self.by_op["clock"]:
            who = one["who"]
            if one["before"] != one["ahead"]:
                begun[who] = (one["t"], one["before"])
                continue
            since, before = begun[who]
            self._turned[who].append((since, one["u"]))
            if before:
                self._wrong[who][-1] = (self._wrong[who][-1][0], one["u"])
            else:
                self._wrong[who].append((since, math.inf))

    def _read_histories(self) -> None:
        """When each restore was answered: the mesh says that it is in another history. At the latest when it must."""
        self._answered = []
        known: set[str] = set()
        told = list(self._etcd("history"))
        for t, u in self.restores:
            known |= {one["id"] for one in told if one["t"] < t}
            moments = [one["t"] for one in told if one["t"] >= u and one["id"] not in known]
            self._answered.append(min([*moments, u + SETTLE]))

    def _etcd(self, what: str) -> Iterator[Record]:
        return (one for one in self.by_op["etcd"] if one["what"] == what)

    def _read_members(self) -> None:
        """A node that is told of anew after a gap has been registered since the revision that is told."""
        self._members = []
        alive: dict[tuple[int, str], _Membership] = {}
        latest: dict[int, int] = defaultdict(int)
        self.gaps = any(True for _ in self._etcd("gap"))
        for one in self.by_op["etcd"]:
            life, revision = one["life"], one["revision"]
            latest[life] = max(latest[life], revision)
            if one["what"] == "gap":
                for key in [key for key in alive if key[0] == life]:
                    alive.pop(key).until = latest[life] + 1
            if one["what"] != "node":
                continue
            key = (life, one["id"])
            if one["gone"]:
                ended = alive.pop(key, None)
                if ended is not None:
                    ended.until = revision
            elif key not in alive:
                alive[key] = _Membership(one["id"], one["name"], life, revision)
                self._members.append(alive[key])

    def _read_signing(self) -> None:
        self.signing = {}
        signs: dict[int, bool] = {}
        prepared: dict[tuple[int, str], int] = {}
        acks: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        for one in self._etcd("key"):
            prepared.setdefault((one["life"], one["kid"]), one["revision"])
        for one in self._etcd("ack"):
            acks[one["life"], one["id"]].append((one["revision"], one["applied"]))
        for one in self._etcd("signing"):
            life, kid, revision = one["life"], one["kid"], one["revision"]
            if not one["gone"] and kid not in self.signing:
                since = prepared.get((life, kid)) or revision
                silent = [
                    member.id
                    for member in self._members
                    if member.life == life
                    and member.since < since
                    and revision < member.until
                    and not any(at < revision and since <= applied for at, applied in acks[life, member.id])
                ]
                self.signing[kid] = Activation(one, life, since, revision, signs.get(life, False), tuple(silent))
            signs[life] = not one["gone"]

    def _read_revocations(self) -> None:
        found: dict[tuple[str, int | None, int], Revoker] = {}
        for one in self._etcd("epoch"):
            if not one["gone"]:
                key = (one["scope"], one["life"], one["revision"])
                found.setdefault(key, Revoker(*key, known=one["u"], seen=True))
        for one in self.by_op["revoke"]:
            if one["answer"] != "ok" or not one["revision"]:
                continue
            key = (one["scope"], self.life(one["t"], one["u"]), one["revision"])
            revocation = found.setdefault(key, Revoker(*key, known=one["u"]))
            revocation.known = min(revocation.known, one["u"])
            revocation.asked, revocation.answered = one["t"], one["u"]
            revocation.receipt, revocation.record = one.get("receipt"), one
        self.revocations = defaultdict(list)
        for revocation in found.values():
            self.revocations[revocation.scope].append(revocation)
        for revocations in self.revocations.values():
            revocations.sort(key=lambda one: one.known)

    def _read_removed(self) -> None:
        """Who asked may never have learned that it was done: etcd tells, too."""
        self.removed = defaultdict(list)
        for kid in {one["kid"] for one in self.by_op["revoke-key"]}:
            self.removed[kid].extend(self.revocations.get(key_scope(kid), ()))
        for one in self.by_op["revoke-key"]:
            if one["answer"] == "ok":
                self.removed[one["kid"]].append(
                    Revoker(
                        f"key {one['kid']}",
                        self.life(one["t"], one["u"]),
                        one["revision"],
                        known=one["u"],
                        asked=one["t"],
                        answered=one["u"],
                        receipt=one.get("receipt"),
                        record=one,
                    )
                )

    def _read_terms(self) -> None:
        """In etcd's own order. What there was before the observer knew who led tells nothing."""
        self.unled = []
        leads: dict[int, bool] = {}
        for one in self.by_op["etcd"]:
            if one["what"] == "leader":
                leads[one["life"]] = not one["gone"]
            elif one["what"] == "gap":
                leads.pop(one["life"], None)
            elif one["what"] in ("key", "signing") and not one["gone"] and not leads.get(one["life"], True):
                self.unled.append(one)

    def _read_later(self) -> None:
        """By life: when revocations were asked for, and the least revision of those from then on."""
        self._later = {}
        found: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for revocation in (one for scope in self.revocations.values() for one in scope):
            if revocation.seen and revocation.asked < math.inf and revocation.life is not None:
                found[revocation.life].append((revocation.asked, revocation.revision))
        for life, pairs in found.items():
            pairs.sort()
            least = list(itertools.accumulate((revision for _, revision in reversed(pairs)), min))
            self._later[life] = ([asked for asked, _ in pairs], least[::-1])

    def unseen_by_observer(self, moment: float) -> bool:
        """Whether the observer may have missed what was committed just then, since a restore came."""
        return self.gaps or any(t - _UNSEEN <= moment <= u for t, u in self.restores)


def _scopes(issued: Record) -> tuple[str, ...]:
    scopes = [EVERYONE, subject_scope(issued["subject"]), client_scope(issued["client"])]
    if issued.get("sid"):
        scopes.append(session_scope(issued["sid"]))
    return (*scopes, *map(audience_scope, issued["aud"]))
