"""Issuing, refreshing and revoking, on auth replicas (authsvc/sessions/issuer.py, sessions.py, refreshing.py,
standing.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.actions import Steps, commit, fault, faulty
from model.state import Desk, Session, State, Worker, revision_of

if TYPE_CHECKING:
    from model.worlds import World

__all__ = [
    "authenticate",
    "begin_login",
    "commit_login",
    "commit_refresh",
    "end_for_reuse",
    "grace_passes",
    "judge",
    "lose_answer",
    "read_preconditions",
    "revoke_subject",
    "show_refresh_token",
]


def begin_login(state: State, world: World) -> Steps:
    """A login comes in; the revision is read before anybody is authenticated.

    Code: authsvc/sessions/issuer.py Issuer.login.
    """
    if not state.left.requests:
        return
    for kind in ("login", "client"):
        worker = Worker(kind=kind, stage="authenticate", began=revision_of(state.etcd))
        text = "a login" if kind == "login" else "a request for a client's token"
        yield f"{text} begins, at revision {worker.began}", _taken_on(state, worker)


def show_refresh_token(state: State, world: World) -> Steps:
    """Somebody shows a refresh token: its holder, the holder again because the answer was lost, or a thief.

    Code: authsvc/sessions/sessions.py Sessions.refresh.
    """
    if not state.left.requests:
        return
    for token in sorted(state.desk.hands):
        yield (
            f"refresh token {token} is shown",
            _taken_on(state, Worker(kind="refresh", stage="judge", token=token)),
        )


def _taken_on(state: State, worker: Worker) -> State:
    left = state.left._replace(requests=state.left.requests - 1)
    desk = state.desk
    return state._replace(desk=desk._replace(workers=(*desk.workers, worker)), left=left)


def authenticate(state: State, world: World) -> Steps:
    """The password is checked.

    Code: authsvc/sessions/issuer.py Issuer.login.
    """
    for index, worker in enumerate(state.desk.workers):
        if worker.stage == "authenticate":
            after = worker._replace(stage="standing", vouched=revision_of(state.etcd))
            yield f"{_who(worker)} is authenticated, at revision {after.vouched}", _with(state, index, after)


def read_preconditions(state: State, world: World) -> Steps:
    """What the credential stands on is read in one transaction.

    Whoever was revoked since the login began is authenticated again. A client's token is signed right away: nothing is
    written, so nothing is compared.

    Code: authsvc/sessions/preconditions.py read_preconditions; authsvc/sessions/issuer.py Issuer.login.
    """
    etcd, rules = state.etcd, world.rules
    for index, worker in enumerate(state.desk.workers):
        if worker.stage != "standing":
            continue
        revision = revision_of(etcd)
        if etcd.epoch > worker.began and rules.authentication_is_dated:
            again = worker._replace(stage="authenticate", began=revision, vouched=0)
            yield f"{_who(worker)} was revoked meanwhile, and is authenticated again", _with(state, index, again)
        elif worker.kind == "client":
            desk = _done(state.desk, index)
            desk = desk._replace(access=desk.access | {(revision, worker.vouched, 0)})
            yield f"{_who(worker)} is answered: a token of epoch {revision}", state._replace(desk=desk)
        else:
            after = worker._replace(stage="commit", revision=revision, epoch=etcd.epoch)
            yield f"{_who(worker)} reads what it stands on, at revision {revision}", _with(state, index, after)


def commit_login(state: State, world: World) -> Steps:
    """The session is committed if nothing of that has changed.

    Code: authsvc/sessions/issuer.py Issuer._commit.
    """
    etcd, rules, desk = state.etcd, world.rules, state.desk
    for index, worker in enumerate(desk.workers):
        if worker.kind != "login" or worker.stage != "commit":
            continue
        if etcd.epoch != worker.epoch and rules.issuing_compares:
            again = worker._replace(stage="standing", revision=0, epoch=0)
            yield f"{_who(worker)} cannot commit: something has changed", _with(state, index, again)
            continue
        if desk.session.version:
            continue  # one session is followed at a time; another one would not touch it
        epoch = worker.revision if rules.epoch_of_read else revision_of(etcd)
        token = desk.tokens + 1
        session = Session(version=1, created=len(desk.ended), epoch=epoch, current=token, vouched=worker.vouched)
        after = _done(desk, index)._replace(
            session=session,
            ended=(*desk.ended, 0),
            tokens=token,
            hands=desk.hands | {token},
            access=desk.access | {(epoch, worker.vouched, session.created)},
        )
        yield (
            f"{_who(worker)} is answered: a session of epoch {epoch}, refresh token {token}",
            state._replace(desk=after),
        )


def judge(state: State, world: World) -> Steps:
    """The session is read with what it stands on, and the token judged.

    In a retry the token inherits the session's epoch and nothing is written, so the answer follows at once.

    Code: authsvc/sessions/sessions.py Sessions._refresh; authsvc/sessions/refresh_tokens.py judge_refresh_token, review.
    """
    etcd, rules, desk = state.etcd, world.rules, state.desk
    session = desk.session
    for index, worker in enumerate(desk.workers):
        if worker.stage != "judge":
            continue
        verdict, over = _verdict(session, worker.token)
        if verdict == "ended":
            yield (
                f"refresh token {worker.token} is refused: its session has ended",
                state._replace(desk=_done(desk, index)),
            )
        elif etcd.epoch > session.epoch and rules.refreshing_reviews:
            # Whoever finds it ends the session, if nobody has yet.
            ended = _ended(state._replace(desk=_done(desk, index)), world)
            yield f"refresh token {worker.token} is refused: its session was revoked, and ends", ended
        elif verdict == "retried" or (verdict == "reused" and not rules.reuse_ends):
            yield _retried(state, world, index, over)
        else:
            after = worker._replace(
                stage="end" if verdict == "reused" else "commit",
                revision=revision_of(etcd),
                epoch=etcd.epoch,
                session=session,
                verdict=verdict,
            )
            yield f"refresh token {worker.token} is found to be {verdict}", _with(state, index, after)


def _verdict(session: Session, token: int) -> tuple[str, bool]:
    """authsvc/sessions/refresh_tokens.py, judge_refresh_token: the verdict, and whether the token was used up."""
    if not session.version:
        return "ended", False
    if token == session.current:
        return "current", False
    for used, _, over in session.used:
        if used == token:
            return ("reused" if over else "retried"), over
    return "ended", False  # of another session, which has gone


def _retried(state: State, world: World, index: int, over: bool) -> tuple[str, State]:
    """The current token again; in a broken protocol, one more successor."""
    desk, worker = state.desk, state.desk.workers[index]
    session = desk.session
    after = _done(desk, index)
    successor = session.current
    if not world.rules.retries_get_the_same:
        successor = desk.tokens + 1
        after = after._replace(
            tokens=successor, session=session._replace(version=session.version + 1, current=successor)
        )
    after = after._replace(
        hands=after.hands | {successor},
        trades=after.trades | _trade(session, worker.token, successor, world),
        access=after.access | {(session.epoch, session.vouched, session.created)},
        misjudged=after.misjudged or over,
    )
    return f"refresh token {worker.token} is a retry, and gets refresh token {successor}", state._replace(desk=after)


def _trade(session: Session, token: int, successor: int, world: World) -> frozenset[tuple[int, int]]:
    """A retry follows the chain up to the current token: each link of it is one trade."""
    links = {used: after for used, after, _ in session.used}
    if world.rules.retries_get_the_same and links.get(token) != successor:
        return frozenset()
    return frozenset({(token, successor)})


def commit_refresh(state: State, world: World) -> Steps:
    """The token is traded for the next, if neither record nor epochs have changed.

    Code: authsvc/sessions/sessions.py Sessions._refresh; authsvc/sessions/refresh_tokens.py refreshed.
    """
    etcd, rules, desk = state.etcd, world.rules, state.desk
    for index, worker in enumerate(desk.workers):
        if worker.kind != "refresh" or worker.stage != "commit":
            continue
        before = worker.session
        changed = rules.refreshing_compares and desk.session != before
        if changed or (rules.issuing_compares and etcd.epoch != worker.epoch):
            again = Worker(kind="refresh", stage="judge", token=worker.token)
            yield f"refresh token {worker.token} cannot be traded: something has changed", _with(state, index, again)
            continue
        successor = desk.tokens + 1
        epoch = worker.revision if rules.epoch_of_read else revision_of(etcd)
        session = before._replace(
            version=desk.session.version + 1,
            epoch=epoch,
            current=successor,
            used=(*before.used, (worker.token, successor, False)),
        )
        after = _done(desk, index)._replace(
            session=session,
            tokens=successor,
            hands=desk.hands | {successor},
            trades=desk.trades | {(worker.token, successor)},
            access=desk.access | {(epoch, session.vouched, session.created)},
        )
        yield f"refresh token {worker.token} is traded for {successor}", state._replace(desk=after)


@fault
def lose_answer(state: State, world: World) -> Steps:
    """The answer to whoever holds the newest token is lost; the thief, who shows any token, does without it too."""
    newest = state.desk.session.current
    if state.left.faults and newest in state.desk.hands and state.desk.session.used:
        desk = state.desk._replace(hands=state.desk.hands - {newest})
        yield f"the answer with refresh token {newest} was lost", faulty(state)._replace(desk=desk)


def end_for_reuse(state: State, world: World) -> Steps:
    """A token was used again after its grace: record and epoch go and come in one commit.

    Code: authsvc/sessions/sessions.py Sessions._end_for_reuse.
    """
    desk = state.desk
    for index, worker in enumerate(desk.workers):
        if worker.stage != "end":
            continue
        if not desk.session.version or desk.session.created != worker.session.created:
            again = Worker(kind="refresh", stage="judge", token=worker.token)
            yield f"the session of refresh token {worker.token} was ended by somebody else", _with(state, index, again)
            continue
        ended = _ended(state._replace(desk=_done(desk, index)), world)
        yield f"refresh token {worker.token} was used twice: its session ends", ended


def _ended(state: State, world: World) -> State:
    """One commit: the record goes, the session's epoch comes (authsvc/revocation/revoker.py, Revoker.revoke_all)."""
    desk, etcd, at = state.desk, state.etcd, -1
    if world.rules.ends_put_epochs:
        etcd = commit(etcd, ("epoch", desk.session.created))
        at = len(etcd.log)
    created = desk.session.created
    ended = (*desk.ended[:created], at, *desk.ended[created + 1 :])
    return state._replace(etcd=etcd, desk=desk._replace(session=Session(), ended=ended))


def grace_passes(state: State, world: World) -> Steps:
    """The grace window of a used token is over.

    Code: authsvc/sessions/refresh_tokens.py judge_refresh_token.
    """
    session = state.desk.session
    for index, (token, successor, over) in enumerate(session.used):
        if not over:
            used = (*session.used[:index], (token, successor, True), *session.used[index + 1 :])
            desk = state.desk._replace(session=session._replace(used=used))
            yield f"the grace window of refresh token {token} is over", state._replace(desk=desk)
            return


def revoke_subject(state: State, world: World) -> Steps:
    """The subject is revoked; or its session is kicked.

    Code: authsvc/revocation/revoker.py Revoker.revoke; authsvc/sessions/sessions.py Sessions.end.
    """
    if not state.left.revocations:
        return
    before = state._replace(left=state.left._replace(revocations=state.left.revocations - 1))
    etcd = commit(state.etcd, ("epoch", 0))
    etcd = etcd._replace(epoch=len(etcd.log))
    yield f"the subject is revoked: revision {etcd.epoch}", before._replace(etcd=etcd)
    if state.desk.session.version:
        after = _ended(before, world)
        yield f"the session is kicked: revision {len(after.etcd.log)}", after


def _who(worker: Worker) -> str:
    return "the login" if worker.kind == "login" else "the client"


def _with(state: State, index: int, worker: Worker) -> State:
    desk = state.desk
    return state._replace(desk=desk._replace(workers=(*desk.workers[:index], worker, *desk.workers[index + 1 :])))


def _done(desk: Desk, index: int) -> Desk:
    return desk._replace(workers=desk.workers[:index] + desk.workers[index + 1 :])
