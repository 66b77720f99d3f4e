"""Bring a world up and keep it until killed: `python -m tests.lab.play [--terminals N] [--mobike] [--swanroam] ...`.

Prints how to enter each host. Every line on standard input is a command: `move [N]`, `leave [N]`, `enter [N]`, `sas`,
`streams` (an uplink and a downlink over a move), `logs` (of swanroam), `quit`.
"""

import argparse
import signal
import sys
import time

from tests.lab.charon import TunnelOptions
from tests.lab.topology import Topology
from tests.lab.world import World


def main() -> None:
    """Play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--terminals", type=int, default=1)
    parser.add_argument("--mobike", action="store_true")
    parser.add_argument("--roam-events", action="store_true")
    parser.add_argument("--esp", default="aes128gcm16")
    parser.add_argument("--swanroam", action="store_true", help="start swanroam on every end")
    parser.add_argument("--capability", default="negotiate")
    parser.add_argument("--no-connect", action="store_true")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tunnel = TunnelOptions(mobike=chosen.mobike, roam_events=chosen.roam_events, esp_proposal=chosen.esp)
    began_s = time.monotonic()
    with World(Topology(terminals=chosen.terminals), tunnel) as world:
        print(f"namespaces are there after {time.monotonic() - began_s:.1f} s", flush=True)
        if not chosen.no_connect:
            world.connect()
        if chosen.swanroam:
            world.roam(chosen.capability)
        print(f"ready after {time.monotonic() - began_s:.1f} s; logs, sockets and configurations in {world.folder}")
        for host in world.hosts:
            print(f"  ip netns exec {host.namespace.name} ...", flush=True)
        for line in sys.stdin:
            words = line.split()
            if words == ["quit"]:
                break
            if words:
                obey(world, *words)


def obey(world: World, word: str, number: str = "1") -> None:
    """Carry out one command."""
    terminal = world.terminals[int(number) - 1]
    match word:
        case "move":
            print(terminal.move(), flush=True)
        case "leave":
            print(terminal.leave(), flush=True)
        case "enter":
            print(terminal.enter(), flush=True)
        case "sas":
            for end in world.ends:
                print(end.name, *end.charon.sas(), sep="\n  ", flush=True)
        case "logs":
            for end in world.ends:
                print(end.name, end.swanroam.log, sep="\n", flush=True)
        case "streams":
            capture = world.capture
            with world.both_ways(terminal) as (up, down):
                move = terminal.move()
                up.flows(move.usable_ns, deadline_s=60)
                down.flows(move.usable_ns, deadline_s=60)
                up.flows()
                print(f"{move}\nup   {up.outcome(move.began_ns)}\ndown {down.outcome(move.began_ns)}")
                print(f"IKE packets since: {len(capture.ike(move.began_ns))}", flush=True)
        case _:
            print(f"no such command: {word}", flush=True)


if __name__ == "__main__":
    main()
