"""Libreswan in a namespace, as Debian packages it: pluto takes charon's place on a gateway.

It has a root of its own (packaging/bootstrap.sh, made_root), as its package cannot be installed beside strongSwan's.
What the operator would write, its database of keys, its control socket and its log are in the host's folder, which is
/run there.
"""

from pathlib import Path

from tests.lab.charon import CONNECTION, Charon, TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.errors import Ended
from tests.lab.hosts import Host
from tests.lab.topology import GATEWAY_WAN, INNER_NETWORK

__all__ = ["ROOT", "Pluto"]

ROOT = Path(__file__).resolve().parents[2] / ".roots" / "libreswan"
PROGRAMS = "/usr/libexec/ipsec"
# Its mounts are its own, and the root is only read.
INSIDE = """mount --bind "$2" "$1/run" && mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" &&
    root=$1 && shift 2 && exec chroot "$root" "$@"
"""
# Modecfg without padding: charon takes the padding for a broken attribute.
CONFIGURATION = f"""config setup
    audit-log=no
    ikev1-policy=accept

conn %default
    left={GATEWAY_WAN}
    leftid=gateway@lab
    leftsubnet={INNER_NETWORK}
    right=%any
    rightid=terminal1@lab
    rightaddresspool=10.9.0.1-10.9.0.254
    authby=secret
    ike=aes128-sha2_256-dh31
    esp=aes_gcm128
    pfs=no
    dpddelay=5
    dpdtimeout=20
    dpdaction=clear
    auto=add

conn {CONNECTION}2
    ikev2=insist
    mobike=yes

conn {CONNECTION}1
    ikev2=no
    leftmodecfgserver=yes
    rightmodecfgclient=yes
    modecfgpull=yes
    ikepad=no
"""


class Pluto(Charon):
    """pluto of one gateway, which takes tunnels of IKEv2, with MOBIKE where the terminal offers it, and of IKEv1.

    What is asked of charon over vici cannot be asked of it.
    """

    def __init__(self, host: Host, options: TunnelOptions) -> None:
        super().__init__(host, options, "")
        self.log = host.folder / "pluto.log"

    def configure(self, options: TunnelOptions, swanctl: str) -> None:  # noqa: ARG002 -- as charon is told
        """Write its configuration, the same for all tunnels."""
        (self._host.folder / "ipsec.conf").write_text(CONFIGURATION)
        (self._host.folder / "ipsec.secrets").write_text('%any %any : PSK "a secret of the lab"\n')

    def load(self, swanctl: str | None = None) -> None:
        """Nothing: it has all connections since it started."""

    def start(self) -> None:
        """Start pluto; `ready` waits for it."""
        database = self._host.folder / "nss"
        if not database.exists():
            database.mkdir()
            self._inside("/usr/bin/certutil", "-N", "-d", "sql:/run/nss", "--empty-password")
        (self._host.folder / "pluto").mkdir(exist_ok=True)
        files = ("--config", "/run/ipsec.conf", "--secretsfile", "/run/ipsec.secrets", "--nssdir", "/run/nss")
        with self.log.open("ab") as output:
            self._process = self._host.namespace.spawn(
                self._command(f"{PROGRAMS}/pluto", "--nofork", "--stderrlog", *files), output=output
            )

    def ready(self) -> None:
        """Wait until it has the connections, and listens."""

        def listens() -> bool:
            if not self.running:
                raise Ended(f"{self._host.name}: pluto ended, see pluto.log")
            status = self.whack("--status")
            return f'"{CONNECTION}1"' in status and f"{GATEWAY_WAN}:4500" in status

        eventually(listens, f"{self._host.name}: pluto listens", deadline_s=60)

    @property
    def version(self) -> str:
        """What pluto says it is, without what it was built with."""
        return " ".join(self._inside(f"{PROGRAMS}/pluto", "--version").split()[:2])

    def whack(self, *arguments: str) -> str:
        """What `ipsec whack` prints."""
        return self._inside(f"{PROGRAMS}/whack", *arguments)

    def _command(self, *arguments: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", INSIDE, "sh", str(ROOT), str(self._host.folder), *arguments]

    def _inside(self, *arguments: str) -> str:
        return self._host.namespace.run(self._command(*arguments))
