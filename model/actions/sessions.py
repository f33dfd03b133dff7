"""Issuing, refreshing and revoking, on auth replicas.

Modelled on issuer.py, sessions.py, refresh_tokens.py and preconditions.py of authsvc/sessions/.
"""

from __future__ import annotations

from model.actions import commit, fault, faulty
from model.state import Issuance, Request, Session, State, revision_of
from model.world import Steps, World

__all__ = [
    "authenticate",
    "begin_login",
    "commit_known_refresh",
    "commit_login",
    "commit_refresh",
    "end_for_reuse",
    "grace_passes",
    "judge_refresh_token",
    "lose_answer",
    "present_refresh_token",
    "read_preconditions",
    "revoke_subject",
    "use_known_session",
]


def begin_login(state: State, world: World) -> Steps:
    """A login arrives; the revision is read before the caller is authenticated.

    Code: authsvc/sessions/issuer.py Issuer.login.
    """
    if not state.budget.requests:
        return
    for kind in ("login", "client"):
        request = Request(kind=kind, stage="authenticate", started_at=revision_of(state.etcd))
        text = "a login" if kind == "login" else "a request for a client's token"
        yield f"{text} begins, at revision {request.started_at}", _with_request(state, request)


def present_refresh_token(state: State, world: World) -> Steps:
    """A refresh token is presented: by its holder, by the holder again after a lost answer, or by a thief.

    Code: authsvc/sessions/sessions.py Sessions.refresh.
    """
    if not state.budget.requests:
        return
    for token in sorted(state.issuance.held_tokens):
        yield (
            f"refresh token {token} is presented",
            _with_request(state, Request(kind="refresh", stage="judge", token=token)),
        )


def _with_request(state: State, request: Request) -> State:
    left = state.budget._replace(requests=state.budget.requests - 1)
    issuance = state.issuance
    return state._replace(issuance=issuance._replace(requests=(*issuance.requests, request)), budget=left)


def authenticate(state: State, world: World) -> Steps:
    """The password is checked.

    Code: authsvc/sessions/issuer.py Issuer.login.
    """
    for index, request in enumerate(state.issuance.requests):
        if request.stage == "authenticate":
            after = request._replace(stage="preconditions", authenticated_at=revision_of(state.etcd))
            yield (
                f"{_caller(request)} is authenticated, at revision {after.authenticated_at}",
                _replace_request(state, index, after),
            )


def read_preconditions(state: State, world: World) -> Steps:
    """The credential's preconditions are read in one transaction.

    A subject that was revoked after its login began is authenticated again. A client's token is signed at once: nothing
    is written, so nothing is compared.

    Code: authsvc/sessions/preconditions.py read_preconditions; authsvc/sessions/issuer.py Issuer.login.
    """
    etcd, rules = state.etcd, world.rules
    for index, request in enumerate(state.issuance.requests):
        if request.stage != "preconditions":
            continue
        revision = revision_of(etcd)
        if etcd.epoch > request.started_at and rules.authentication_is_dated:
            again = request._replace(stage="authenticate", started_at=revision, authenticated_at=0)
            yield (
                f"{_caller(request)} was revoked meanwhile, and has to be authenticated again",
                _replace_request(state, index, again),
            )
        elif request.kind == "client":
            issuance = _without_request(state.issuance, index)
            issuance = issuance._replace(
                access_tokens=issuance.access_tokens | {(revision, request.authenticated_at, 0)}
            )
            yield f"{_caller(request)} is answered: a token of epoch {revision}", state._replace(issuance=issuance)
        else:
            after = request._replace(stage="commit", revision=revision, epoch=etcd.epoch)
            yield (
                f"{_caller(request)} has its preconditions read, at revision {revision}",
                _replace_request(state, index, after),
            )


def commit_login(state: State, world: World) -> Steps:
    """The session is committed if the preconditions are unchanged.

    Code: authsvc/sessions/issuer.py Issuer._commit.
    """
    etcd, rules, issuance = state.etcd, world.rules, state.issuance
    for index, request in enumerate(issuance.requests):
        if request.kind != "login" or request.stage != "commit":
            continue
        if etcd.epoch != request.epoch and rules.issuing_compares:
            again = request._replace(stage="preconditions", revision=0, epoch=0)
            yield (
                f"{_caller(request)} cannot be committed: a precondition has changed",
                _replace_request(state, index, again),
            )
            continue
        if issuance.session.version:
            continue  # the model follows one session at a time; another session would not affect it
        epoch = request.revision if rules.epoch_of_read else revision_of(etcd)
        token = issuance.tokens + 1
        session = Session(
            version=1,
            number=len(issuance.ended),
            epoch=epoch,
            current=token,
            authenticated_at=request.authenticated_at,
            record_revision=revision_of(etcd),
        )
        after = _without_request(issuance, index)._replace(
            session=session,
            ended=(*issuance.ended, 0),
            tokens=token,
            held_tokens=issuance.held_tokens | {token},
            access_tokens=issuance.access_tokens | {(epoch, request.authenticated_at, session.number)},
        )
        yield (
            f"{_caller(request)} is answered: a session of epoch {epoch}, refresh token {token}",
            state._replace(issuance=after),
        )


def judge_refresh_token(state: State, world: World) -> Steps:
    """The session and its preconditions are read, and the refresh token is judged.

    The answer to a retry inherits the session's epoch, and nothing is written, so it follows at once.

    Code: authsvc/sessions/sessions.py Sessions._refresh; authsvc/sessions/refresh_tokens.py judge_refresh_token,
    evaluate_session.
    """
    etcd, rules, issuance = state.etcd, world.rules, state.issuance
    session = issuance.session
    for index, request in enumerate(issuance.requests):
        if request.stage != "judge":
            continue
        verdict, grace_over = _verdict(session, request.token)
        if verdict == "ended":
            yield (
                f"refresh token {request.token} is refused: its session has ended",
                state._replace(issuance=_without_request(issuance, index)),
            )
        elif etcd.epoch > session.epoch and rules.refreshing_reviews:
            # The replica that finds the revocation ends the session, unless it has ended already.
            ended = _end_session(state._replace(issuance=_without_request(issuance, index)), world)
            yield f"refresh token {request.token} is refused: its session was revoked, and ends", ended
        elif verdict == "retried" or (verdict == "reused" and not rules.reuse_ends_session):
            yield _answer_retry(state, world, index, grace_over)
        else:
            after = request._replace(
                stage="end" if verdict == "reused" else "commit",
                revision=revision_of(etcd),
                epoch=etcd.epoch,
                session=session,
                verdict=verdict,
            )
            yield f"refresh token {request.token} is found to be {verdict}", _replace_request(state, index, after)


def _verdict(session: Session, token: int) -> tuple[str, bool]:
    """authsvc/sessions/refresh_tokens.py, judge_refresh_token: the verdict, and whether the token was used up."""
    if not session.version:
        return "ended", False
    if token == session.current:
        return "current", False
    for used, _, grace_over in session.used:
        if used == token:
            return ("reused" if grace_over else "retried"), grace_over
    return "ended", False  # a token of an earlier session


def _answer_retry(state: State, world: World, index: int, grace_over: bool) -> tuple[str, State]:
    """Answers a retry with the current token; in a broken protocol, with one more successor."""
    issuance, request = state.issuance, state.issuance.requests[index]
    session = issuance.session
    after = _without_request(issuance, index)
    successor = session.current
    if not world.rules.retries_get_successor:
        successor = issuance.tokens + 1
        after = after._replace(
            tokens=successor,
            session=session._replace(
                version=session.version + 1, current=successor, record_revision=revision_of(state.etcd)
            ),
        )
    after = after._replace(
        held_tokens=after.held_tokens | {successor},
        exchanges=after.exchanges | _exchange(session, request.token, successor, world),
        access_tokens=after.access_tokens | {(session.epoch, session.authenticated_at, session.number)},
        reuse_accepted=after.reuse_accepted or grace_over,
    )
    return f"refresh token {request.token} is a retry, and gets refresh token {successor}", state._replace(
        issuance=after
    )


def _exchange(session: Session, token: int, successor: int, world: World) -> frozenset[tuple[int, int]]:
    """The exchange that a retry adds: none if the token's successor was exchanged, too, since each link counts once."""
    links = {used: after for used, after, _ in session.used}
    if world.rules.retries_get_successor and links.get(token) != successor:
        return frozenset()
    return frozenset({(token, successor)})


def commit_refresh(state: State, world: World) -> Steps:
    """The token is exchanged for its successor, if neither record nor epochs have changed.

    Code: authsvc/sessions/sessions.py Sessions._refresh; authsvc/sessions/refresh_tokens.py record_after_refresh.
    """
    etcd, rules, issuance = state.etcd, world.rules, state.issuance
    for index, request in enumerate(issuance.requests):
        if request.kind != "refresh" or request.stage != "commit":
            continue
        changed = rules.refreshing_compares and issuance.session != request.session
        if changed or (rules.issuing_compares and etcd.epoch != request.epoch):
            yield _judge_again(state, index)
        else:
            epoch = request.revision if rules.epoch_of_read else revision_of(etcd)
            yield _commit_exchange(state, index, epoch)


def use_known_session(state: State, world: World) -> Steps:
    """A replica knows the session's record from its watch, and the refresh token is the current one.

    Nothing is read, so the record can be old. Any other verdict needs a read.

    Code: authsvc/sessions/sessions.py Sessions._refresh_known_session; authsvc/sessions/refresh_tokens.py
    is_current_refresh_token.
    """
    session = state.issuance.session
    for index, request in enumerate(state.issuance.requests):
        if request.stage == "judge" and session.version and request.token == session.current:
            after = request._replace(stage="commit_known", session=session, verdict="current")
            text = f"refresh token {request.token} is current in the record that a replica knows"
            yield text, _replace_request(state, index, after)


def commit_known_refresh(state: State, world: World) -> Steps:
    """The token is exchanged in one transaction, if the record is unchanged and nothing was revoked since its epoch.

    The record's own revision is the new epoch. If a condition fails, the session is read.

    Code: authsvc/sessions/sessions.py Sessions._refresh_known_session; authsvc/sessions/preconditions.py
    conditions_since_epoch; authsvc/revocation/lifetimes.py IssuingLifetime.commit_in_force.
    """
    etcd, rules, issuance = state.etcd, world.rules, state.issuance
    for index, request in enumerate(issuance.requests):
        if request.stage != "commit_known":
            continue
        known = request.session
        changed = rules.refreshing_compares and issuance.session != known
        if changed or (rules.known_refresh_compares and etcd.epoch > known.epoch):
            yield _judge_again(state, index)
        else:
            epoch = known.record_revision if rules.epoch_of_read else revision_of(etcd)
            yield _commit_exchange(state, index, epoch)


def _judge_again(state: State, index: int) -> tuple[str, State]:
    token = state.issuance.requests[index].token
    again = Request(kind="refresh", stage="judge", token=token)
    text = f"refresh token {token} cannot be exchanged: a precondition has changed"
    return text, _replace_request(state, index, again)


def _commit_exchange(state: State, index: int, epoch: int) -> tuple[str, State]:
    """One commit: the session's next record, with a new refresh token."""
    issuance, request = state.issuance, state.issuance.requests[index]
    before, successor = request.session, issuance.tokens + 1
    session = before._replace(
        version=issuance.session.version + 1,
        epoch=epoch,
        current=successor,
        used=(*before.used, (request.token, successor, False)),
        record_revision=revision_of(state.etcd),
    )
    after = _without_request(issuance, index)._replace(
        session=session,
        tokens=successor,
        held_tokens=issuance.held_tokens | {successor},
        exchanges=issuance.exchanges | {(request.token, successor)},
        access_tokens=issuance.access_tokens | {(epoch, session.authenticated_at, session.number)},
    )
    return f"refresh token {request.token} is exchanged for {successor}", state._replace(issuance=after)


@fault
def lose_answer(state: State, world: World) -> Steps:
    """The answer with the newest refresh token is lost: neither the holder nor the thief has that token."""
    newest = state.issuance.session.current
    if state.budget.faults and newest in state.issuance.held_tokens and state.issuance.session.used:
        issuance = state.issuance._replace(held_tokens=state.issuance.held_tokens - {newest})
        yield f"the answer with refresh token {newest} was lost", faulty(state)._replace(issuance=issuance)


def end_for_reuse(state: State, world: World) -> Steps:
    """A token was used again after its grace window: one commit deletes the record and puts the session's epoch.

    Code: authsvc/sessions/sessions.py Sessions._end_for_reuse.
    """
    issuance = state.issuance
    for index, request in enumerate(issuance.requests):
        if request.stage != "end":
            continue
        if not issuance.session.version or issuance.session.number != request.session.number:
            again = Request(kind="refresh", stage="judge", token=request.token)
            yield (
                f"the session of refresh token {request.token} was ended meanwhile",
                _replace_request(state, index, again),
            )
            continue
        ended = _end_session(state._replace(issuance=_without_request(issuance, index)), world)
        yield f"refresh token {request.token} was used twice: its session ends", ended


def _end_session(state: State, world: World) -> State:
    """One commit deletes the record and puts the session's epoch, as Revoker.revoke_all does."""
    issuance, etcd, at = state.issuance, state.etcd, -1
    if world.rules.ends_put_epochs:
        etcd = commit(etcd, ("epoch", issuance.session.number))
        at = len(etcd.log)
    number = issuance.session.number
    ended = (*issuance.ended[:number], at, *issuance.ended[number + 1 :])
    return state._replace(etcd=etcd, issuance=issuance._replace(session=Session(), ended=ended))


def grace_passes(state: State, world: World) -> Steps:
    """The grace window of a used token ends.

    Code: authsvc/sessions/refresh_tokens.py judge_refresh_token.
    """
    session = state.issuance.session
    for index, (token, successor, grace_over) in enumerate(session.used):
        if not grace_over:
            used = (*session.used[:index], (token, successor, True), *session.used[index + 1 :])
            issuance = state.issuance._replace(session=session._replace(used=used))
            yield f"the grace window of refresh token {token} ends", state._replace(issuance=issuance)
            return


def revoke_subject(state: State, world: World) -> Steps:
    """The subject is revoked, or its session is kicked.

    Code: authsvc/revocation/revoker.py Revoker.revoke; authsvc/sessions/sessions.py Sessions.end.
    """
    if not state.budget.revocations:
        return
    before = state._replace(budget=state.budget._replace(revocations=state.budget.revocations - 1))
    etcd = commit(state.etcd, ("epoch", 0))
    etcd = etcd._replace(epoch=len(etcd.log))
    yield f"the subject is revoked: revision {etcd.epoch}", before._replace(etcd=etcd)
    if state.issuance.session.version:
        after = _end_session(before, world)
        yield f"the session is kicked: revision {len(after.etcd.log)}", after


def _caller(request: Request) -> str:
    return "the login" if request.kind == "login" else "the client"


def _replace_request(state: State, index: int, request: Request) -> State:
    issuance = state.issuance
    return state._replace(
        issuance=issuance._replace(requests=(*issuance.requests[:index], request, *issuance.requests[index + 1 :]))
    )


def _without_request(issuance: Issuance, index: int) -> Issuance:
    return issuance._replace(requests=issuance.requests[:index] + issuance.requests[index + 1 :])
