"""swanroam, killed at an effect of a move that a story names, and started again: `python -m tests.lab.mortal run ...`.

The process loads everything once and runs the daemon in a child. The child looks for a file `kill` beside the
configuration: `EFFECT before|after`. When it comes to such an effect it removes the file and kills itself, and another
child takes its place in a moment. So a story of a restart takes a second instead of ten, and nothing of this is in the
program that is shipped. Beside it, in `effects`, are the names of all effects that there were, one a line.
"""

import ctypes
import importlib
import os
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path

from swanroam.app.cli_run import run
from swanroam.app.performer import Performer
from swanroam.model.effects import Effect

PR_SET_PDEATHSIG = 1
perform = Performer._perform


def main() -> None:
    """Run the daemon again and again until it ends in another way than by the kill that was ordered."""
    order = Path(sys.argv[sys.argv.index("--config") + 1]).with_name("kill")
    for module in ("swanroam.app.daemon", "swanroam.kernel.pyroute"):
        importlib.import_module(module)
    for hook in entry_points(group="swanroam"):
        hook.load()
    child = 0

    def pass_on(number: int, _frame: object) -> None:
        if child:
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT):
        signal.signal(number, pass_on)
    while True:
        child = os.fork()
        if child == 0:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT):
                signal.signal(number, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            be_mortal(order)
            run(args=sys.argv[2:])
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit(os.waitstatus_to_exitcode(status))


def be_mortal(order: Path) -> None:
    """Have this process write down its effects, and kill itself where the order says."""
    done = order.with_name("effects").open("a", buffering=1)

    def mortal(self: Performer, effect: Effect) -> None:
        name, when = type(effect).__name__, ""
        done.write(f"{name}\n")
        if order.exists():
            wanted, _, when = order.read_text().partition(" ")
            when = when if wanted == name else ""
        if when == "before":
            die(order)
        perform(self, effect)
        if when == "after":
            die(order)

    Performer._perform = mortal  # type: ignore[method-assign]


def die(order: Path) -> None:
    """Be gone at once."""
    order.unlink()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
