"""`make run`: a mesh that stays up until Ctrl-C, and what a person sees of it."""

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
from localmesh.mesh import LocalMesh, Options, Stopped
from localmesh.processes.process import last_lines
from localmesh.processes.supervision import Happening, Supervised

__all__ = ["up"]

_ROLES: Final = {
    "etcd": "keys, epochs, sessions",
    "auth-1": "auth service",
    "auth-2": "auth service",
    "storefront": "sample, asyncio",
    "orders": "sample, sync",
    "inventory": "sample, asyncio",
}
_NEXT: Final = (
    ("make demo", "the whole story, told in a minute (in another terminal)"),
    ("make login", "sign in as alice (her password is alice-password)"),
    ("make revoke SUBJECT=alice", "every node refuses her credentials within milliseconds"),
    ("make rotate-keys", "a new signing key, without refusing a single call"),
    ("make keys · sessions · nodes", "what there is"),
)


class Narrator:
    """Tells a terminal, or a file, what happens to the mesh."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._starting: dict[str, Spinner] = {}

    def __call__(self, happening: Happening, supervised: Supervised) -> None:
        """Told by the supervisor."""
        part = supervised.part
        match happening:
            case Happening.STARTING:
                self._starting[part.name] = Spinner("dots", f" {part.name:<11} {_ROLES.get(part.name, '')}")
            case Happening.UP:
                self._starting.pop(part.name, None)
                took = f"[dim]{supervised.took:5.2f} s[/]"
                self._console.print(f"[green]✓[/] {part.name:<11} [cyan]{part.address:<16}[/] {took}")
            case Happening.DIED | Happening.BROKEN:
                self._starting.pop(part.name, None)
                self._died(supervised, again=happening is Happening.DIED)
            case Happening.HELD:
                self._console.print(f"[yellow]‖[/] {part.name} was taken down on request")
            case Happening.STOPPED:
                self._console.print(f"[dim]·[/] {part.name} has stopped")
        self._refresh()

    def begin(self) -> None:
        """Shows a spinner per part that is starting, where the terminal can."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, refresh_per_second=12)
            self._live.start()

    def end(self) -> None:
        """No more spinners."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(Group(*self._starting.values()))

    def _died(self, supervised: Supervised, *, again: bool) -> None:
        part = supervised.part
        code = part.exit_code
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        then = "; it is started again" if again else ""
        lines = "\n".join(last_lines(part.log_file)) or "(its log is empty)"
        title = f"[red]✗ {part.name} died ({how}){then}[/]"
        self._console.print(Panel(Text(lines), title=title, title_align="left", subtitle=escape(str(part.log_file))))


def up(options: Options) -> int:
    """Brings a mesh up, keeps it up until Ctrl-C, SIGTERM or `make down`; returns the exit code."""
    # In a file a line may be as long as it needs to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    narrator = Narrator(console)
    mesh = LocalMesh(options, tell=narrator)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # SimpleQueue.put is safe in a signal handler, whatever the thread was doing.
        signal.signal(number, lambda n, _: mesh.inbox.put(signal.Signals(n)))
    try:
        narrator.begin()
        try:
            mesh.bring_up()
        finally:
            narrator.end()
        _show(console, mesh)
        mesh.keep_up()
    except Stopped as stopped:
        console.print(f"\n[bold]stopping[/] [dim]({stopped})[/]")
        return 0
    except CredmeshError as error:
        console.print(f"[red bold]the mesh cannot be kept up:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    finally:
        _take_down(mesh)
    return 0


def _take_down(mesh: LocalMesh) -> None:
    # From now on a second Ctrl-C ends what is left at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: mesh.supervisor.kill())
    mesh.take_down()


def _show(console: Console, mesh: LocalMesh) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("part", "what", "address", "state"):
        table.add_column(heading)
    for name, supervised in mesh.supervisor.parts.items():
        state = f"[green]{supervised.state.value}[/]"
        table.add_row(name, _ROLES.get(name, ""), f"[cyan]{supervised.part.address}[/]", state)
    if not mesh.embedded_etcd:
        table.add_row("etcd", "not ours", f"[cyan]{mesh.profile['etcd']}[/]", "[green]up[/]")
    console.print()
    console.print(table)
    for name, wanted, used in mesh.moved:
        console.print(f"[yellow]port {wanted} is taken; {name} uses {used}[/]")
    console.print(f"\n[bold]The mesh is up[/] after {mesh.up_seconds:.1f} s. What to try next:\n")
    commands = Table(box=None, pad_edge=False, show_header=False)
    for command, what in _NEXT:
        commands.add_row(f"  [bold cyan]{command}[/]", what)
    console.print(commands)
    issuer = mesh.profile["issuer"]
    console.print(f"\n  keys as JWKS  {issuer}/.well-known/jwks.json")
    console.print(f"  logs          {_short(mesh.folder / 'logs')}")
    console.print("\nCtrl-C stops it; a second `make run` goes on with the same data; `make clean` forgets it.")


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
