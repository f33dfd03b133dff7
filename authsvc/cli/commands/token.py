"""`credmesh token inspect` and `credmesh token print`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.inspection.claims import ALGORITHM_NOTES, CLAIM_MEANINGS, HEADER_MEANINGS, TIME_CLAIMS, Meaning
from authsvc.cli.inspection.token import Check, Conclusion, Decoded, Kind, Verdict, check_locally, conclude, decode
from authsvc.cli.mesh.saved_login import read_login
from authsvc.cli.options import Invocation, MeshGroup, pass_invocation
from authsvc.cli.terminal.output import Cell, Column
from authsvc.cli.terminal.secrets import read_secret_file
from authsvc.cli.terminal.times import local_time, relative

__all__ = ["token"]

_STYLES: Final = {Verdict.GOOD: "green", Verdict.BAD: "bold red", Verdict.UNKNOWN: "yellow"}
_HEADLINES: Final = {
    Verdict.GOOD: "It would be accepted now: ",
    Verdict.BAD: "It would be refused: ",
    Verdict.UNKNOWN: "It is not known whether it would be accepted now: ",
}
_TITLES: Final = {
    Kind.ACCESS_TOKEN: "Access token (a JWT)",
    Kind.SESSION_TOKEN: "Opaque session token",
    Kind.REFRESH_TOKEN: "Refresh token",
    Kind.CLIENT_SECRET: "Client secret",
    Kind.UNREADABLE: "Not a token",
}
_MAX_SHOWN_CHARACTERS: Final = 200
_UNKNOWN_MEANING: Final = Meaning("", "")
_MEMBER_COLUMNS: Final = (
    Column("Name", width=11, whole=True),
    Column("Value", width=24),
    Column("Meaning"),
    Column("Source", width=16),
)
_CHECK_COLUMNS: Final = (Column("Check", width=9, whole=True), Column("Finds", width=11, whole=True), Column("Why"))


@click.group("token", cls=MeshGroup)
def token() -> None:
    """Inspect a token, or print one for other tools."""


@token.command("print")
@click.option("--header", is_flag=True, help="Print a whole header: authorization: Bearer …")
@pass_invocation
def token_print(invocation: Invocation, header: bool) -> None:
    """Print a valid credential of the user who signed in, else of the client. It is renewed first if necessary.

    For other tools: grpcurl -H "$(credmesh token print --header)" …
    """
    with invocation.connect(preferred="user") as auth:
        credential = auth.credential
    if invocation.as_json:
        invocation.output.data({"token": credential})
    else:
        invocation.output.line(f"authorization: Bearer {credential}" if header else credential)
    if sys.stdout.isatty():
        invocation.output.note("This is a secret: with it anyone can act as you until it expires.")


@token.command("inspect")
@click.argument("text", metavar="[TOKEN|-]", required=False)
@click.option("--file", "file", type=click.Path(path_type=Path, dir_okay=False), help="Read the token from a file.")
@click.option("--audience", default="", metavar="NAME", help="Also check whether this service would accept it.")
@click.option("--offline", is_flag=True, help="Only decode it; send nothing to the mesh.")
@pass_invocation
def token_inspect(invocation: Invocation, text: str | None, file: Path | None, audience: str, offline: bool) -> None:
    """Show what a token holds, what each claim means, and whether and why it would be accepted now.

    TOKEN is an access token, a session token or a refresh token. `-` reads it from stdin, which keeps it out of your
    shell's history. Without TOKEN it is the one of `credmesh login`. An unreachable mesh is no error: the answer shows
    what could not be checked. Exit code 1 if the token would be refused.
    """
    credential = _token_to_inspect(invocation, text, file)
    decoded = decode(credential)
    now = time.time()
    checks = check_locally(decoded, now=now, issuer=invocation.profile.issuer, audience=audience)
    if not offline:
        from authsvc.cli.inspection.live_checks import add_live_checks

        checks = add_live_checks(invocation, credential, decoded, checks, now)
    conclusion = conclude(checks)
    if invocation.as_json:
        invocation.output.data(_as_json(decoded, checks, conclusion))
    else:
        _show_inspection(invocation, decoded, checks, conclusion, now)
    if conclusion.verdict is Verdict.BAD:
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def _token_to_inspect(invocation: Invocation, text: str | None, file: Path | None) -> str:
    """The token from the argument, stdin, the file or the saved login. Failure if there is none."""
    if text is not None and file is not None:
        raise Failure("TOKEN and --file exclude each other", next_step="Give only one of them.", code=ExitCode.USAGE)
    if file is not None or text == "-":
        given = read_secret_file(file if file is not None else Path("-"), "the token")
    elif text is not None:
        given = text
    else:
        saved = read_login(invocation.profile.credentials_file)
        given = "" if saved is None else saved.access_token or saved.session_token
        if not given:
            raise Failure(
                "no token was given, and no user is signed in",
                next_step="Give a token, `-` to read it from stdin, or --file FILE.",
                code=ExitCode.USAGE,
            )
    # Accepted as people copy it: folded over lines, with the scheme, or as a whole header.
    words = given.split()
    for prefix in ("authorization:", "bearer"):
        if words and words[0].lower() == prefix:
            del words[0]
    token = "".join(words)
    if not token:
        raise Failure("the token is empty", code=ExitCode.USAGE)
    return token


def _show_inspection(
    invocation: Invocation, decoded: Decoded, checks: list[Check], conclusion: Conclusion, now: float
) -> None:
    output = invocation.output
    output.line(f"{_TITLES[decoded.kind]}, {decoded.size:,} characters", "bold")
    output.line(_HEADLINES[conclusion.verdict] + conclusion.why, _STYLES[conclusion.verdict])
    output.line()
    if decoded.session_id:
        output.pairs([("Session", decoded.session_id), ("Holds", "nothing else; the session's data is on the server")])
        output.line()
    if decoded.header:
        rows = [_member_row(name, value, HEADER_MEANINGS, now) for name, value in decoded.header.items()]
        output.table(_MEMBER_COLUMNS, rows)
        output.line()
    if decoded.claims:
        # Known claims in a fixed order, then the others.
        order = {name: place for place, name in enumerate(CLAIM_MEANINGS)}
        names = sorted(decoded.claims, key=lambda name: order.get(name, len(order)))
        rows = [_member_row(name, decoded.claims[name], CLAIM_MEANINGS, now) for name in names]
        output.table(_MEMBER_COLUMNS, rows)
        output.line()
    output.table(
        _CHECK_COLUMNS,
        [[check.name, Cell(check.verdict.value, _STYLES[check.verdict]), check.text] for check in checks],
    )


def _member_row(name: str, value: object, glossary: Mapping[str, Meaning], now: float) -> list[Cell | str]:
    meaning = glossary.get(name, _UNKNOWN_MEANING)
    text = meaning.text
    if glossary is HEADER_MEANINGS and name == "alg":
        text = ALGORITHM_NOTES.get(str(value), "not used by credmesh")
    return [
        Cell(_shortened(name), "bold"),
        _value_text(name, value, glossary, now),
        text or "(not used by credmesh)",
        meaning.source.replace(" section ", " §"),
    ]


def _value_text(name: str, value: object, glossary: Mapping[str, Meaning], now: float) -> str:
    if glossary is CLAIM_MEANINGS and name in TIME_CLAIMS and type(value) in (int, float):
        at = Decoded(Kind.ACCESS_TOKEN, 0, claims={name: value}).time(name)
        return str(value) if at is None else f"{local_time(at)} ({relative(at, now)})"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _shortened(" ".join(value))
    return _shortened(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}… ({len(text):,} characters)"


def _as_json(decoded: Decoded, checks: list[Check], conclusion: Conclusion) -> dict[str, Any]:
    words = {Verdict.GOOD: "accepted", Verdict.BAD: "refused", Verdict.UNKNOWN: "unknown"}
    return {
        "kind": decoded.kind.name,
        "verdict": words[conclusion.verdict],
        "why": conclusion.why,
        "sessionId": decoded.session_id or decoded.claims.get("sid", ""),
        "header": decoded.header,
        "claims": decoded.claims,
        "meanings": {
            name: {"meaning": CLAIM_MEANINGS[name].text, "source": CLAIM_MEANINGS[name].source}
            for name in decoded.claims
            if name in CLAIM_MEANINGS
        },
        "checks": [{"check": check.name, "finds": check.verdict.name, "why": check.text} for check in checks],
    }
