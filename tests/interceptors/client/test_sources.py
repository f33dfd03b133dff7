"""Sources refuse arguments that could never sign in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interceptors.client.sources import ClientSecret, FixedToken, PasswordLogin, RefreshTokenLogin, read_secret


@pytest.mark.parametrize("make", [FixedToken, RefreshTokenLogin])
@pytest.mark.parametrize("token", ["", "token\n", "Bearer token", "tökén", "to\x00ken"])
def test_a_token_that_no_header_can_carry_is_refused_at_once(make: Any, token: str) -> None:
    with pytest.raises(ValueError, match="token") as error:
        make(token)
    assert not token or repr(token)[1:-1] not in str(error.value)


@pytest.mark.parametrize("make", [PasswordLogin, ClientSecret])
@pytest.mark.parametrize("option", ["audiences", "scopes"])
def test_one_string_is_not_taken_for_a_sequence_of_names(make: Any, option: str) -> None:
    with pytest.raises(TypeError, match=rf"{option} is a sequence of names.*\('orders',\)"):
        make("name", "secret", **{option: "orders"})


@pytest.mark.parametrize("make", [PasswordLogin, ClientSecret])
@pytest.mark.parametrize("parts", [("", "secret"), ("name", "")])
def test_an_empty_name_or_secret_is_refused_at_once(make: Any, parts: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="one of them is empty"):
        make(*parts)


def test_a_secrets_file_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(FileNotFoundError, match="secret"):
        ClientSecret("orders", client_secret_file=file)
    for content, problem in ((b" \n", "is empty"), (b"\xff\xfe", "is not text")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"secret {problem}"):
            ClientSecret("orders", client_secret_file=str(file))
    file.write_bytes(b"s3cret")
    with pytest.raises(ValueError, match="one of the two"):
        ClientSecret("orders", "s3cret", client_secret_file=file)


def test_a_secrets_file_may_hold_blanks_and_a_byte_order_mark_around_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    assert read_secret(file) == "s3cret"
    assert "s3cret" not in repr(ClientSecret("orders", client_secret_file=file))
