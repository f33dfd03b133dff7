"""The saved login: readable only by its owner, and each refresh token is used once."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from authsvc.cli.failure import Failure
from authsvc.cli.mesh.saved_login import SavedLogin, read_login, usable_credential, write_login
from credmesh.auth.v1 import auth_pb2

NOW = 1_764_000_000.0
LOGIN = SavedLogin(
    subject="alice", session_id="s1", access_token="access-1", expires_at=NOW + 300, refresh_token="refresh-1"
)


def credentials(number: int) -> auth_pb2.Credentials:
    return auth_pb2.Credentials(
        access_token=f"access-{number}",
        refresh_token=f"refresh-{number}",
        session_id="s1",
        expires_in=Duration(seconds=300),
    )


def never(_: str) -> auth_pb2.Credentials:
    raise AssertionError("no refresh was expected")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "profile.credentials.json"


def test_what_was_saved_is_read_back(path: Path) -> None:
    assert read_login(path) is None
    write_login(path, LOGIN)
    assert read_login(path) == LOGIN


def test_only_its_owner_may_read_the_file(path: Path) -> None:
    write_login(path, LOGIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_others_may_read_is_refused(path: Path) -> None:
    write_login(path, LOGIN)
    path.chmod(0o640)
    with pytest.raises(Failure, match="other users of this machine may read") as caught:
        read_login(path)
    assert f"chmod 600 {path}" in caught.value.next_step


@pytest.mark.parametrize("text", ["", "[]", '{"subject": "alice"}', '{"subject": "a", "session_id": "s", "new": 1}'])
def test_a_file_of_another_release_is_a_request_to_sign_in_again(path: Path, text: str) -> None:
    write_login(path, LOGIN)
    path.write_text(text)
    with pytest.raises(Failure, match="this release does not know its format"):
        read_login(path)


def test_a_saved_login_shows_no_secret() -> None:
    assert "access-1" not in repr(LOGIN)
    assert "refresh-1" not in repr(LOGIN)


def test_a_token_that_does_not_expire_soon_is_used_as_it_is(path: Path) -> None:
    write_login(path, LOGIN)
    assert usable_credential(path, never, NOW) == "access-1"


def test_a_token_about_to_expire_is_renewed_and_the_new_login_saved(path: Path) -> None:
    write_login(path, LOGIN)
    used: list[str] = []

    def refresh(token: str) -> auth_pb2.Credentials:
        used.append(token)
        return credentials(2)

    assert usable_credential(path, refresh, NOW + 290) == "access-2"
    assert used == ["refresh-1"]
    saved = read_login(path)
    assert saved is not None
    assert (saved.subject, saved.refresh_token, saved.expires_at) == ("alice", "refresh-2", NOW + 590)


def test_a_session_token_is_used_as_it_is(path: Path) -> None:
    write_login(path, SavedLogin(subject="alice", session_id="s1", session_token="opaque-1"))
    assert usable_credential(path, never, NOW) == "opaque-1"


def test_a_refresh_that_fails_leaves_the_saved_login_as_it_was(path: Path) -> None:
    write_login(path, LOGIN)

    def refresh(_: str) -> auth_pb2.Credentials:
        raise Failure("no server answers")

    with pytest.raises(Failure, match="no server answers"):
        usable_credential(path, refresh, NOW + 299)
    assert read_login(path) == LOGIN


def test_commands_at_the_same_time_use_the_refresh_token_once(path: Path) -> None:
    write_login(path, LOGIN)
    refreshes: list[str] = []
    start = threading.Barrier(8)
    used: list[str] = []

    def refresh(token: str) -> auth_pb2.Credentials:
        refreshes.append(token)
        return credentials(2)

    def command() -> None:
        start.wait()
        used.append(usable_credential(path, refresh, NOW, refused="access-1"))

    threads = [threading.Thread(target=command) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refreshes == ["refresh-1"]
    assert used == ["access-2"] * 8


def test_without_a_login_the_failure_says_how_to_sign_in(path: Path) -> None:
    with pytest.raises(Failure) as caught:
        usable_credential(path, never, NOW)
    assert "credmesh login" in caught.value.next_step
