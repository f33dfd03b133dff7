"""Output on a terminal: tables that fit, prompts that hide passwords, questions before what cannot be undone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter

import pytest

from authsvc.cli.failure import ExitCode
from authsvc.cli.terminal.output import Cell, Column, Output
from tests.authsvc.cli.conftest import PASSWORD, Command
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_until

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # A process that a shell started in the background ignores Ctrl-C, and passes that on to its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """Runs the command on its own terminal, and records the screen."""

    def __init__(self, command: Command, *arguments: str, columns: int = 80, **environ: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.set_blocking(self._master, False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "authsvc.cli", *arguments],
            env={**command.environ, "TERM": "xterm-256color", **environ},
            cwd=REPOSITORY,
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)
        self.screen = ""

    def types(self, prompt: str, answer: str) -> None:
        """Waits for a prompt and answers it."""
        wait_until(lambda: prompt in self._read(), what=f"the prompt {prompt!r} in {self.screen!r}")
        os.write(self._master, answer.encode() + b"\n")

    def ends(self) -> tuple[int, str]:
        """Waits until the command ends. Returns its exit code and the whole screen."""
        wait_until(lambda: (self._read(), self._process.poll() is not None)[1], what="the command to end")
        self._read()
        os.close(self._master)
        return self._process.returncode, self.screen.replace("\r", "")

    def _read(self) -> str:
        with contextlib.suppress(OSError):  # no more output yet, or the command has closed its side
            while chunk := os.read(self._master, 65536):
                self.screen += chunk.decode()
        return self.screen


def test_a_password_is_asked_for_and_not_shown(command: Command, user: str) -> None:
    terminal = Terminal(command, "login")
    terminal.types("User: ", user)
    terminal.types(f"Password for {user}: ", PASSWORD)
    code, screen = terminal.ends()
    assert code == ExitCode.OK
    assert f"Signed in as {user}." in screen
    assert PASSWORD not in screen


def test_a_new_password_is_asked_for_twice(command: Command, user: str) -> None:
    terminal = Terminal(command, "user", "passwd", user)
    terminal.types(f"New password for {user}: ", "the new password")
    terminal.types("Repeat for confirmation: ", "the new password")
    code, screen = terminal.ends()
    assert code == ExitCode.OK
    assert "the new password" not in screen
    command.ok("login", user, password="the new password")


@pytest.mark.parametrize(("answer", "code", "there"), [("n", 1, True), ("y", 0, False)])
def test_deleting_asks_first(command: Command, user: str, answer: str, code: int, there: bool) -> None:
    terminal = Terminal(command, "user", "delete", user)
    terminal.types(f"Delete user {user}?", answer)
    assert terminal.ends()[0] == code
    assert (user in command.ok("user", "list")) is there


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_table_fits_the_terminal_and_its_ids_stay_whole(command: Command, user: str, columns: int) -> None:
    session_id = command.json("login", user, password=PASSWORD)["sessionId"]
    code, screen = Terminal(command, "sessions", "--subject", user, columns=columns).ends()
    assert code == ExitCode.OK
    lines = _STYLE.sub("", screen).splitlines()
    assert any(session_id in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert ("Scopes" in lines[0]) is (columns == 200)
    assert columns < 80 or len(lines) == 3, (
        "a session takes one line: a column that does not fit is left out, not folded"
    )
    assert _STYLE.search(screen)


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_the_nodes_fit_the_terminal_and_their_freshness_stays_whole(command: Command, columns: int) -> None:
    code, screen = Terminal(command, "nodes", columns=columns).ends()
    assert code == ExitCode.OK
    text = _STYLE.sub("", screen)
    for node in command.json("nodes", "--no-probe")["nodes"]:
        assert node["nodeId"] in text
    assert "Freshness" in text
    assert re.search(r"\b\d+\.\d\d s\b", text)
    assert columns < 60 or max(len(line.rstrip()) for line in text.splitlines()) <= columns


_TABLE = (
    Column("Id", width=16, whole=True),
    Column("Lost since", width=16),
    Column("Why", width=30),
    Column("Noticed by", optional=2),
    Column("Count", whole=True, optional=1),
)
_ROWS = (
    ("0b4dc6a52a6dc59d", "now", "its history is of cluster bae51fc6a55e0661", "auth-vm-36d599c1", "12"),
    (
        "e4b7710b307b3885",
        "2026-11-23 15:10",
        "its revision is lower",
        "auth-auth-7d9f8b6c5d-x2x4z-abcd1234",
        "12345678",
    ),
)


@pytest.mark.parametrize("width", [20, 36, 40, 60, 80, 100, 140])
def test_no_cell_is_cut_at_any_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Columns are left out, then folded. If that is not enough, each value gets its own line."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    Output(as_json=False).table(_TABLE, _ROWS)
    text = _STYLE.sub("", capsys.readouterr().out)
    shown = [place for place, column in enumerate(_TABLE) if not column.optional or column.title in text]
    assert ("Count" in text) or ("Noticed by" not in text), "the highest number is left out first"
    cells = "".join(_TABLE[place].title + "".join(row[place] for row in _ROWS) for place in shown)
    assert Counter("".join(cells.split())) <= Counter("".join(text.split()))
    assert all(row[0] in text for row in _ROWS), "an id stays in one piece"
    if width >= 40:
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_there_is_no_colour_with_no_color_or_a_dumb_terminal(command: Command) -> None:
    code, screen = Terminal(command, "nodes", NO_COLOR="1").ends()
    assert code == ExitCode.OK
    assert "\x1b[3" not in screen
    code, screen = Terminal(command, "nodes", TERM="dumb").ends()
    assert code == ExitCode.OK
    assert "\x1b" not in screen
    assert screen.startswith("NODE ")


def test_an_interrupted_prompt_ends_the_command_quietly(command: Command) -> None:
    terminal = Terminal(command, "login", "alice")
    terminal.types("Password for alice: ", "\x03")
    code, screen = terminal.ends()
    assert code == ExitCode.FAILED
    assert "Traceback" not in screen


def test_columns_in_a_pipe_keep_their_places_when_values_change(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    columns = [Column("Seen", width=10), Column("Name", whole=True), Column("Kind")]
    places = set()
    for seen in ("now", "12 min ago", "3 h ago"):
        output.table(columns, [[seen, Cell("alice", "bold"), "x"]])
        title, row = capsys.readouterr().out.splitlines()
        places.add((title.index("NAME"), row.index("alice")))
    assert places == {(12, 12)}


def test_wide_characters_and_markup_are_aligned_and_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.table([Column("Name"), Column("Kind")], [["愛", "a"], ["[red]x", "b"]])
    assert capsys.readouterr().out == "NAME    KIND\n愛      a\n[red]x  b\n"
    output.table([Column("Name")], [], empty="There is none.")
    assert capsys.readouterr().out == "There is none.\n"
