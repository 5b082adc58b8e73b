"""ReplayShelf: what was replayed, kept within a byte budget, so that the second question about a step is quick."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from colorlab.errors import RangeError
from colorlab.inspection.moments import PastStep, Predicted
from colorlab.inspection.replay import Replay, replay_step
from colorlab.networks.environment import weight_bytes
from colorlab.networks.sites import Site

__all__ = ["ReplayShelf", "shelf_of"]


class ReplayShelf:
    """Least recently used replays, by the record of their step.

    A record belongs to one step of one path and never changes, so a replay stays valid on every branch that shares the
    step, and a step that is taken again after a rewind is replayed again. Refused replays are not kept. Safe to use
    from several threads; do not hold the lock of the model while asking.

    Args:
        max_bytes: budget of all readings kept. A replay reads more than was asked for (all attention sites, or all of
            one kind) as long as that fits into half of it.

    Raises:
        RangeError: `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int = 2**29) -> None:
        if max_bytes < 0:
            raise RangeError(f"max_bytes is {max_bytes}, but at least 0 is expected.")
        self.max_bytes = max_bytes
        self.num_replays = 0
        self._kept: OrderedDict[int, tuple[Predicted, Replay]] = OrderedDict()
        self._numbers = itertools.count()
        self._lock = threading.RLock()

    def get(self, moment: PastStep, sites: Sequence[Site], *, network_sites: Sequence[Site] = ()) -> Replay:
        """Return a replay of a step that has read `sites` in every pass.

        Args:
            moment: the step.
            sites: what has to be read.
            network_sites: all sites of the network, of which some are read along for later questions.
        """
        wanted = {(site.path, name) for site in sites for name in moment.guidance_passes}
        with self._lock:
            for number, (record, replay) in self._kept.items():
                if record is moment.record and wanted <= set(replay.readings):
                    self._kept.move_to_end(number)
                    return replay
            self.num_replays += 1
            replay = replay_step(moment, self._choose(moment, sites, network_sites))
            if replay.verdict.name != "refused":
                self._kept[next(self._numbers)] = (moment.record, replay)
                self._shrink()
            return replay

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    @property
    def num_bytes(self) -> int:
        """Bytes of all readings kept."""
        with self._lock:
            return sum(replay.num_bytes for _, replay in self._kept.values())

    def _choose(self, moment: PastStep, sites: Sequence[Site], network_sites: Sequence[Site]) -> Sequence[Site]:
        """Return what to read: all attention sites, all of the kinds asked for, or what was asked for."""
        kinds = {site.kind for site in sites}
        generous = [
            [site for site in network_sites if site.is_attention],
            [site for site in network_sites if site.kind in kinds],
        ]
        for choice in generous:
            # Block outputs are large and asked for one at a time, so that only attention is read along.
            is_usable = set(sites) <= set(choice) and all(site.is_attention for site in choice)
            if is_usable and _estimate_bytes(moment, choice) <= self.max_bytes // 2:
                return choice
        return sites

    def _shrink(self) -> None:
        """Drop the replays that were not used for longest until the rest fits."""
        while self._kept and self.num_bytes > self.max_bytes:
            self._kept.popitem(last=False)


_SHELVES: WeakKeyDictionary[object, ReplayShelf] = WeakKeyDictionary()
_SHELVES_LOCK = threading.Lock()


def shelf_of(owner: object) -> ReplayShelf:
    """Return the one shelf of a loaded model, a `PastStep.owner`; it goes when the model goes."""
    with _SHELVES_LOCK:
        return _SHELVES.setdefault(owner, ReplayShelf())


def _estimate_bytes(moment: PastStep, sites: Sequence[Site]) -> int:
    """Estimate from above what reading sites in all passes stores: keys count as many as queries."""
    numbers = sum(site.num_positions * site.channels * (2 if site.is_attention else 1) for site in sites)
    return numbers * weight_bytes(moment.network) * len(moment.guidance_passes) * moment.num_samples
