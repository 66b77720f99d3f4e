"""Bring a world up and keep it until killed: `python -m tests.lab.play [--terminals N] [--mobike] [--swanroam] ...`.

Prints how to enter each host. Every line on standard input is a command: `move [N]`, `leave [N]`, `enter [N]`, `sas`,
`streams` (an uplink and a downlink over a move), `rebind LINK` and `renumber LINK` (a NAT forgets, or gets another
public address), `logs` (of swanroam), `quit`.

`--nat LINK[,OPTION...]` puts a NAT on wlan0 or lte0, with the options network=THREE-BYTES, idle=SECONDS, carrier, esp
(lets ESP without UDP pass): `--nat lte0 --nat wlan0,network=10.1.0,carrier`.
"""

import argparse
import signal
import sys
import time

from tests.lab.charon import TunnelOptions
from tests.lab.nats import Nat
from tests.lab.topology import Topology
from tests.lab.world import World


def main() -> None:
    """Play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--terminals", type=int, default=1)
    parser.add_argument("--nat", action="append", type=nat, default=[], metavar="LINK[,OPTION...]")
    parser.add_argument("--encap", action="store_true", help="ESP in UDP without a NAT, too")
    parser.add_argument("--ike", type=int, choices=(1, 2), default=2)
    parser.add_argument("--mobike", action="store_true")
    parser.add_argument("--roam-events", action="store_true")
    parser.add_argument("--esp", default="aes128gcm16")
    parser.add_argument("--swanroam", action="store_true", help="start swanroam on every end")
    parser.add_argument("--capability", default="negotiate")
    parser.add_argument("--no-connect", action="store_true")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tunnel = TunnelOptions(
        mobike=chosen.mobike,
        roam_events=chosen.roam_events,
        esp_proposal=chosen.esp,
        ike_version=chosen.ike,
        encap=chosen.encap,
    )
    began_s = time.monotonic()
    with World(Topology(terminals=chosen.terminals, nats=tuple(chosen.nat)), tunnel) as world:
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
            if words[:1] in (["rebind"], ["renumber"]):
                print(world.rebind(words[1], new_address=words[0] == "renumber"), flush=True)
            elif words:
                obey(world, *words)


def nat(text: str) -> Nat:
    """A NAT as it is written on the command line."""
    link, *words = text.split(",")
    options = dict(word.partition("=")[::2] for word in words)
    if unknown := options.keys() - {"network", "idle", "carrier", "esp"}:
        raise argparse.ArgumentTypeError(f"no such option of a NAT: {', '.join(unknown)}")
    return Nat(
        link=link,
        network=options.get("network", ""),
        idle_s=int(options["idle"]) if "idle" in options else None,
        carrier="carrier" in options,
        drop_esp="esp" not in options,
    )


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
