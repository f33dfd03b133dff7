"""`make run`: starts a mesh, shows its progress on the terminal, and keeps it up until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from interceptors.errors import CredmeshError
from localmesh.mesh import LocalMesh, Options, StopRequested
from localmesh.processes.process import last_lines
from localmesh.processes.supervision import PartEvent, SupervisedPart

__all__ = ["up"]

_ROLES: Final = {
    "etcd": "keys, epochs, sessions",
    "auth-1": "auth service",
    "auth-2": "auth service",
    "storefront": "sample, asyncio",
    "orders": "sample, sync",
    "inventory": "sample, asyncio",
}
_COMMANDS_TO_TRY: Final = (
    ("make demo", "see every feature in a minute (in another terminal)"),
    ("make login", "sign in as alice (her password is alice-password)"),
    ("make revoke SUBJECT=alice", "every node refuses her credentials within milliseconds"),
    ("make rotate-keys", "a new signing key, without refusing a single call"),
    ("make keys · sessions · nodes", "list the keys, sessions and nodes"),
)


class ProgressDisplay:
    """Shows the events of the mesh's parts on a terminal, or in a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._starting: dict[str, Spinner] = {}

    def __call__(self, event: PartEvent, supervised: SupervisedPart) -> None:
        """Shows an event. The supervisor calls this."""
        part = supervised.part
        match event:
            case PartEvent.STARTING:
                self._starting[part.name] = Spinner("dots", f" {part.name:<11} {_ROLES.get(part.name, '')}")
            case PartEvent.UP:
                self._starting.pop(part.name, None)
                took = f"[dim]{supervised.startup_seconds:5.2f} s[/]"
                self._console.print(f"[green]✓[/] {part.name:<11} [cyan]{part.address:<16}[/] {took}")
            case PartEvent.DIED | PartEvent.GIVEN_UP:
                self._starting.pop(part.name, None)
                self._show_death(supervised, restarts=event is PartEvent.DIED)
            case PartEvent.TAKEN_DOWN:
                self._console.print(f"[yellow]‖[/] {part.name} was taken down on request")
            case PartEvent.STOPPED:
                self._console.print(f"[dim]·[/] {part.name} has stopped")
        self._refresh()

    def begin(self) -> None:
        """Shows a spinner for each part that is starting, if the output is a terminal."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, refresh_per_second=12)
            self._live.start()

    def end(self) -> None:
        """Removes the spinners."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(Group(*self._starting.values()))

    def _show_death(self, supervised: SupervisedPart, *, restarts: bool) -> None:
        part = supervised.part
        code = part.exit_code
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        then = "; it will be restarted" if restarts else ""
        lines = "\n".join(last_lines(part.log_file)) or "(its log is empty)"
        title = f"[red]✗ {part.name} died ({how}){then}[/]"
        self._console.print(Panel(Text(lines), title=title, title_align="left", subtitle=escape(str(part.log_file))))


def up(options: Options) -> int:
    """Brings a mesh up, keeps it up until Ctrl-C, SIGTERM or `make down`; returns the exit code."""
    # Lines in a file are not wrapped at the width of a terminal.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    display = ProgressDisplay(console)
    mesh = LocalMesh(options, on_event=display)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # SimpleQueue.put is reentrant, so a signal handler may call it.
        signal.signal(number, lambda n, _: mesh.inbox.put(signal.Signals(n)))
    try:
        display.begin()
        try:
            mesh.bring_up()
        finally:
            display.end()
        _show(console, mesh)
        mesh.keep_up()
    except StopRequested as request:
        console.print(f"\n[bold]stopping[/] [dim]({request})[/]")
        return 0
    except CredmeshError as error:
        console.print(f"[red bold]the mesh cannot be kept up:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    finally:
        _stop(mesh)
    return 0


def _stop(mesh: LocalMesh) -> None:
    # From now on, a second Ctrl-C kills the parts that still run.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: mesh.supervisor.kill())
    mesh.shut_down()


def _show(console: Console, mesh: LocalMesh) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("part", "what", "address", "state"):
        table.add_column(heading)
    for name, supervised in mesh.supervisor.parts.items():
        state = f"[green]{supervised.state.value}[/]"
        table.add_row(name, _ROLES.get(name, ""), f"[cyan]{supervised.part.address}[/]", state)
    if not mesh.embedded_etcd:
        table.add_row("etcd", "from ETCD_ENDPOINTS", f"[cyan]{mesh.profile['etcd']}[/]", "[green]up[/]")
    console.print()
    console.print(table)
    for name, wanted, used in mesh.moved:
        console.print(f"[yellow]port {wanted} is taken; {name} uses {used}[/]")
    console.print(f"\n[bold]The mesh is up[/] after {mesh.up_seconds:.1f} s. What to try next:\n")
    commands = Table(box=None, pad_edge=False, show_header=False)
    for command, effect in _COMMANDS_TO_TRY:
        commands.add_row(f"  [bold cyan]{command}[/]", effect)
    console.print(commands)
    issuer = mesh.profile["issuer"]
    console.print(f"\n  keys as JWKS  {issuer}/.well-known/jwks.json")
    console.print(f"  logs          {_short(mesh.folder / 'logs')}")
    console.print("\nCtrl-C stops it. The next `make run` uses the same data; `make clean` deletes it.")


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
