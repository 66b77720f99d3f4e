"""The agent: one lean process for each host of the lab, run as `python -I -S tests/lab/agent` in its namespace.

It reads commands as JSON lines on standard input (`{"do": NAME, ...}`), answers each with one JSON line, and ends with
its input. Everything happens in one loop without threads, so that a stream is disturbed by nothing in its own process.
Times are CLOCK_MONOTONIC nanoseconds, which all namespaces share.
"""

import json
import os
import sys

from captures import Capture, flood, inject, say
from loop import Loop
from transfers import Fetch, Serve
from udp import Receiver, Sender


def main() -> None:
    """Serve commands until the input ends."""
    loop = Loop()
    workers: dict[str, Sender | Receiver | Serve | Fetch | Capture] = {}
    kinds = {"send": Sender, "receive": Receiver, "serve": Serve, "fetch": Fetch, "capture": Capture}
    deeds = {"inject": inject, "flood": flood, "say": say}
    pending = b""

    def answer(command: dict) -> object:
        what = command.pop("do")
        if what in deeds:
            return deeds[what](**command)
        name = command.pop("name")
        if what in kinds:
            if name in workers:
                workers.pop(name).close()
            workers[name] = kinds[what](loop, **command)
            return True
        if what == "report":
            return workers[name].report(**command)
        if what == "stop":
            return workers.pop(name).close()
        raise ValueError(f"no such command: {what}")

    def on_input() -> None:
        nonlocal pending
        chunk = os.read(0, 65536)
        if not chunk:
            loop.running = False
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            try:
                reply = {"ok": answer(json.loads(line))}
            except Exception as error:  # noqa: BLE001 -- the answer is how the caller hears of it
                reply = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(reply, separators=(",", ":")) + "\n")
            sys.stdout.flush()

    loop.watch(0, on_input)
    loop.run()


main()
