"""IKE_SAs that are established and nothing can be said of yet: without a virtual IP, or without a CHILD_SA.

charon says when they are up, and when a CHILD_SA is; not when IKEv1 gives out the virtual IP, nor when one takes the
CHILD_SAs of another over, which is how IKEv1 rekeys (adopt_children_job.c). So it is asked, less and less often: an
IKE_SA may be without CHILD_SAs for good.
"""

from collections.abc import Callable, Iterable
from typing import Final

from swanroam.model.effects import Effect, ListIkeSas, StartTimer
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.tunnel import IkeSa, TunnelKey

__all__ = ["DELAYS_S", "Newcomers"]

DELAYS_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Newcomers:
    """The connections of these IKE_SAs, by unique id, and how often each connection's were asked for."""

    def __init__(self) -> None:
        self._connections: dict[int, str] = {}
        self._looks: dict[str, int] = {}

    def of(self, connection: str) -> tuple[int, ...]:
        """Those of a connection."""
        return tuple(unique_id for unique_id, name in self._connections.items() if name == connection)

    def listed(
        self, sas: Iterable[IkeSa], asked: Iterable[int], *, complete: bool, undecided: Callable[[IkeSa], bool]
    ) -> tuple[Effect, ...]:
        """Take a listing in: of all IKE_SAs, or of these and those that were `asked` for."""
        before, named = self._connections, {sa.unique_id: sa for sa in sas}
        told = before.keys() if complete else {*asked, *named}
        here = {unique_id: sa.name for unique_id, sa in named.items() if undecided(sa)}
        self._connections = {unique_id: name for unique_id, name in before.items() if unique_id not in told} | here
        anew = dict.fromkeys(name for unique_id, name in here.items() if unique_id not in before)
        self._looks |= dict.fromkeys(anew, 0)
        return tuple(_timer(name, DELAYS_S[0]) for name in anew)

    def ended(self, unique_id: int) -> None:
        """An IKE_SA is no more."""
        self._connections.pop(unique_id, None)

    def look(self, connection: str) -> tuple[Effect, ...]:
        """Ask for those of a connection, as long as there are any."""
        looks = self._looks.pop(connection, 0) + 1
        if not (unique_ids := self.of(connection)):
            return ()
        self._looks[connection] = looks
        return (ListIkeSas(unique_ids), _timer(connection, DELAYS_S[min(looks, len(DELAYS_S) - 1)]))


def _timer(connection: str, delay_s: float) -> StartTimer:
    return StartTimer(timer=TimerId(TunnelKey(connection), TimerKind.NEWCOMERS), delay_s=delay_s)
