"""The two ends in memory again, with charons that move the tunnel by themselves (RFC 4555)."""

from dataclasses import replace

from swanroam.model.path import Endpoint, IPAddress
from swanroam.model.tunnel import IkeSa
from tests.support.peers import FOLLOW_S, LIST_S, NATT_PORT, Host, World

__all__ = ["MobikeWorld"]

ROAM_S = 0.1
"""How long a charon waits after its addresses changed (kernel_netlink_net.c, ROAM_DELAY)."""
PROBE_S = 2.5
"""How long it waits for an answer before it looks for a path again (task_manager.h, ROUTEABILITY_CHECK_INTERVAL)."""


class MobikeWorld(World):
    """A world whose tunnel has MOBIKE. With `silent` charon does not notice that its address goes (roam_events)."""

    def __init__(self, *, silent: bool = False, seed: int = 0, delay_s: float = 0.01, jitter_s: float = 0.0) -> None:
        self.silent = silent
        self._looks = 0
        super().__init__(seed=seed, delay_s=delay_s, jitter_s=jitter_s)

    def roam(self, *addresses: IPAddress) -> None:
        """The terminal has these addresses now, best first."""
        super().roam(*addresses)
        self._look_in(ROAM_S)

    def _detect_dead_peer(self) -> None:
        """With MOBIKE dead peer detection looks for another path, as it does by itself (ike_mobike.c, build_i)."""

    def _new_sas(self, outer: IPAddress) -> list[tuple[Host, IkeSa]]:
        return [
            (
                host,
                replace(sa, local=Endpoint(sa.local.address, NATT_PORT), remote=Endpoint(sa.remote.address, NATT_PORT)),
            )
            for host, sa in super()._new_sas(outer)
        ]

    def _look_in(self, delay_s: float) -> None:
        self._looks += 1
        number = self._looks
        self.after(delay_s, lambda: self._look(number))

    def _look(self, number: int) -> None:
        """The terminal's charon looks whether its path is there, and probes another one where it is not."""
        if self.silent or number != self._looks or not self.terminal.sas or not self.terminal.addresses:
            return
        if self.terminal.sas[-1].local.address in self.terminal.addresses:
            return
        source = self.terminal.addresses[0]
        self.after(2 * self.delay_s + FOLLOW_S, lambda: self._answered(source, number))
        self._look_in(PROBE_S)

    def _answered(self, source: IPAddress, _number: int) -> None:
        """A probe was answered: the terminal's charon goes there, and tells the gateway's."""
        if source not in self.terminal.addresses or self.random.random() < self.loss:
            return
        here = Endpoint(source, NATT_PORT)
        self._go(self.terminal, here, remote=False)
        self.after(self.delay_s + FOLLOW_S, lambda: self._told(here))
        self._look_in(2 * self.delay_s + ROAM_S)

    def _told(self, there: Endpoint) -> None:
        if there.address in self.terminal.addresses and self.random.random() < self.loss:
            self.after(PROBE_S, lambda: self._told(there))  # sent again
            return
        self._go(self.gateway, there, remote=True)

    def _go(self, host: Host, terminal: Endpoint, *, remote: bool) -> None:
        if not host.sas:
            return
        changed = replace(host.sas[-1], remote=terminal) if remote else replace(host.sas[-1], local=terminal)
        host.sas = (*host.sas[:-1], changed)
        host._update()
        self.after(LIST_S, lambda: host._tell(host.sas[-1:], complete=False))
