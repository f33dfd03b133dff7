"""The command as a whole: its help, its exit codes, a fast start, and no tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from authsvc.cli.failure import EXIT_CODES, ExitCode
from authsvc.cli.group import COMMANDS, credmesh
from authsvc.cli.options import MeshCommand, MeshGroup
from tests.authsvc.cli.conftest import Command
from tests.support.repository import REPOSITORY
from tests.support.waiting import free_port

ENTRIES = {name: entry for section in COMMANDS.values() for name, entry in section.items()}


def leaves() -> list[tuple[str, ...]]:
    """Every command, as the words that call it."""
    commands: list[tuple[str, ...]] = []
    for name in ENTRIES:
        command = credmesh.get_command(click.Context(credmesh), name)
        assert command is not None
        commands += [(name, inner) for inner in command.commands] if isinstance(command, click.Group) else [(name,)]
    return commands


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_every_command_explains_itself_and_takes_json_a_profile_and_a_timeout(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(credmesh, [*words, "--help"])
    assert result.exit_code == 0
    for option in ("--json", "--profile FILE", "--timeout SECONDS", "--as [client|user]"):
        assert option in result.stdout


@pytest.mark.parametrize("name", ENTRIES)
def test_the_overview_and_the_commands_own_help_agree(name: str) -> None:
    command = credmesh.get_command(click.Context(credmesh), name)
    assert isinstance(command, MeshCommand | MeshGroup)
    # The overview may be shorter. Its first word must be the same, so that the two texts stay similar.
    assert (command.help or "").split()[0] == ENTRIES[name][1].split()[0]


def test_the_help_lists_the_exit_codes() -> None:
    shown = CliRunner().invoke(credmesh, ["--help"]).stdout
    assert [code for code, _ in EXIT_CODES] == list(ExitCode)
    for code, meaning in EXIT_CODES:
        assert f"  {int(code)}  {meaning}" in shown


def test_help_and_version_load_neither_grpc_nor_protobuf_nor_rich() -> None:
    for option in ("--help", "--version"):
        program = (
            "import sys; sys.argv = ['credmesh', sys.argv[1]]\n"
            "from authsvc.cli import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "heavy = {'grpc', 'google.protobuf', 'rich', 'jwt', 'cryptography', 'asyncio'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        subprocess.run([sys.executable, "-c", program, option], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_the_installed_script_runs() -> None:
    script = Path(sys.executable).with_name("credmesh")
    shown = subprocess.run([script, "--version"], check=True, capture_output=True, text=True, timeout=60).stdout
    assert shown.startswith("credmesh ")


@pytest.mark.parametrize("arguments", [("nonsense",), ("keys", "--nonsense"), ("kick",), ("keys", "--timeout", "soon")])
def test_wrong_usage_exits_with_2(nowhere: Command, arguments: tuple[str, ...]) -> None:
    assert nowhere.run(*arguments).exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("arguments", "says", "help_of"),
    [
        (("--json", "frobnicate"), "No such command 'frobnicate'", "credmesh"),
        (("--json", "--bogus"), "No such option '--bogus'", "credmesh"),
        (("--json",), "Missing command", "credmesh"),
        (("--json", "keys", "--bogus"), "No such option '--bogus'", "credmesh keys"),
        (("keys", "--bogus", "--json"), "No such option '--bogus'", "credmesh keys"),
        (("--json", "sessions", "x"), "unexpected extra argument", "credmesh sessions"),
        (("keys", "--json", "--timeout", "soon"), "'soon' is not a valid float", "credmesh keys"),
        (("--json", "user", "frobnicate"), "No such command 'frobnicate'", "credmesh user"),
        (("--json", "user"), "Missing command", "credmesh user"),
    ],
)
def test_wrong_usage_is_reported_in_json_if_json_was_asked_for(
    nowhere: Command, arguments: tuple[str, ...], says: str, help_of: str
) -> None:
    result = nowhere.run(*arguments)
    error = json.loads(result.stderr)["error"]
    assert says in error["message"]
    assert "\n" not in error["message"]
    assert error["nextStep"].startswith(f"`{help_of} --help`")
    assert result.exit_code == error["exitCode"] == ExitCode.USAGE
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("revoke", "--subject", "alice", "--subject", "bob"), "--subject"),
        (("revoke", "--session", "a", "--session=a"), "--session"),
        (("revoke", "--client", "a", "--client", "b"), "--client"),
        (("revoke", "--audience", "a", "--audience", "b"), "--audience"),
        (("sessions", "--subject", "alice", "--subject", "bob"), "--subject"),
        (("kick", "a", "--reason", "x", "b", "--reason", "y"), "--reason"),
        (("user", "add", "alice", "--password-file", "a", "--password-file", "b"), "--password-file"),
        (("rotate-keys", "--no-wait", "--wait"), "--wait/--no-wait"),
        (("--profile", "a", "--profile", "b", "keys"), "--profile"),
        (("keys", "--timeout", "1", "--timeout", "2"), "--timeout"),
    ],
)
def test_an_option_with_one_value_is_refused_when_it_is_given_twice(
    nowhere: Command, arguments: tuple[str, ...], option: str
) -> None:
    result = nowhere.run(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert f"{option} is given 2 times" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("login", "alice", "--scope", "a", "--scope", "b", "--audience", "a", "--audience", "b"),
        ("revoke", "--everyone", "--yes", "--yes", "--json", "--json"),
        ("--timeout", "1", "keys", "--timeout", "2"),  # an alias may hold the first
    ],
)
def test_a_repeatable_option_or_a_repeated_flag_is_accepted(nowhere: Command, arguments: tuple[str, ...]) -> None:
    assert "address of the auth service is not known" in nowhere.run(*arguments).stderr


def test_options_are_accepted_before_and_after_the_commands_name(nowhere: Command) -> None:
    other = nowhere.with_profile("other", auth=f"127.0.0.1:{free_port()}", plaintext=True, client_id="c")
    for arguments in (("--profile", str(other.profile), "keys"), ("keys", "--profile", str(other.profile))):
        # The message shows that the other profile was read: its client has no secret.
        assert "no secret for client 'c'" in nowhere.run(*arguments).stderr


def test_an_unreachable_mesh_exits_with_3_and_says_what_to_do(nowhere: Command) -> None:
    (nowhere.profile.parent / "secret").write_text("x")
    address = f"127.0.0.1:{free_port()}"
    away = nowhere.with_profile("away", auth=address, plaintext=True, client_id="c", client_secret_file="secret")
    done = away.spawn("keys")
    assert done.returncode == ExitCode.UNREACHABLE
    assert f"no server answers at {address}" in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_a_profile_the_command_exits_with_2_and_says_how_to_make_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "authsvc.cli", "keys"],
        cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.USAGE
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_in_json_is_one_object_on_stderr(nowhere: Command) -> None:
    result = nowhere.run("keys", "--json")
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["exitCode"] == result.exit_code == ExitCode.USAGE
    assert "address of the auth service is not known" in error["message"]
    assert "make run" in error["nextStep"]


def test_a_bug_in_the_command_shows_no_traceback_and_no_exception_text() -> None:
    @click.command(cls=MeshCommand)
    def broken() -> None:
        raise RuntimeError("cmr_a_secret_that_was_in_hand")

    result = CliRunner().invoke(broken)
    assert result.exit_code == ExitCode.FAILED
    assert "unexpected RuntimeError" in result.stderr
    assert "CREDMESH_DEBUG=1" in result.stderr
    assert "cmr_" not in result.output
    assert "Traceback" not in result.output
    assert "RuntimeError" in str(CliRunner().invoke(broken, env={"CREDMESH_DEBUG": "1"}).exc_info)


def test_a_reader_that_closes_the_pipe_is_no_error(nowhere: Command) -> None:
    """`credmesh … | head -1` closes the pipe while the command writes."""
    program = f"{sys.executable} -m authsvc.cli token inspect --offline --file {nowhere.profile.parent}/token | true"
    (nowhere.profile.parent / "token").write_text("a.b.c")
    done = subprocess.run(
        ["/bin/sh", "-c", program], env=nowhere.environ, capture_output=True, text=True, timeout=60, check=False,
        cwd=REPOSITORY,
    )  # fmt: skip
    assert done.stderr == ""
