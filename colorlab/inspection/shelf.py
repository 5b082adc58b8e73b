"""ReplayShelf: what was replayed, kept within a byte budget, so that the second question about a step is quick."""

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary, ref

from colorlab.errors import RangeError
from colorlab.inspection.moments import PastCall
from colorlab.inspection.replay import Replay, replay_step
from colorlab.networks.environment import weight_bytes
from colorlab.networks.sites import Site

__all__ = ["ReplayShelf", "shelf_of"]


class ReplayShelf:
    """Least recently used replays, by the identity of their call.

    The record of a step belongs to one path and never changes, so a replay stays valid on every branch that shares the
    step, and a step that is taken again after a rewind is replayed again. What was replayed goes with the record: about
    a run that was pruned nobody can ask again. Refused replays are not kept. Safe to use from several threads; do not
    hold the lock of the model while asking.

    Args:
        max_bytes: budget of all readings kept. A replay reads more than was asked for (all attention sites, or all of
            one kind) as long as that fits into half of it.
        max_replays: at most this many are kept, however small: as many as a run has steps, and some of another one. Of
            a small model the budget alone would keep hundreds that nobody asks about again.

    Raises:
        RangeError: `max_bytes` is negative, or `max_replays` is.
    """

    def __init__(self, max_bytes: int = 2**29, *, max_replays: int = 24) -> None:
        if min(max_bytes, max_replays) < 0:
            raise RangeError(f"max_bytes is {max_bytes} and max_replays {max_replays}, but at least 0 is expected.")
        self.max_bytes = max_bytes
        self.max_replays = max_replays
        self.num_replays = 0
        self._kept: OrderedDict[int, tuple[tuple[ref[object], ...], Replay]] = OrderedDict()
        self._gone: deque[int] = deque()
        self._numbers = itertools.count()
        self._lock = threading.RLock()

    def get(self, moment: PastCall, sites: Sequence[Site], *, network_sites: Sequence[Site] = ()) -> Replay:
        """Return a replay of a call that has read `sites` in every pass.

        Args:
            moment: the call.
            sites: what has to be read, all of one network.
            network_sites: all sites that may be read, of which some of the same network are read along for later
                questions.
        """
        wanted = {site.path for site in sites}
        with self._lock:
            self._drop_gone()
            for number, (identity, replay) in self._kept.items():
                if _is_same(identity, moment.identity) and wanted <= {path for path, _ in replay.readings}:
                    self._kept.move_to_end(number)
                    return replay
            self.num_replays += 1
            replay = replay_step(moment, self._choose(moment, sites, network_sites))
            if replay.verdict.name != "refused":
                number = next(self._numbers)
                lost = partial(self._lose, number)
                self._kept[number] = (tuple(ref(part, lost) for part in moment.identity), replay)
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
            self._drop_gone()
            return sum(replay.num_bytes for _, replay in self._kept.values())

    def _choose(self, moment: PastCall, sites: Sequence[Site], network_sites: Sequence[Site]) -> Sequence[Site]:
        """Return what to read: all attention sites, all of the kinds asked for, or what was asked for."""
        kinds, networks = {site.kind for site in sites}, {site.network for site in sites}
        attention = [site for site in network_sites if site.is_attention and site.network in networks]
        generous = [attention, [site for site in attention if site.kind in kinds]]
        for choice in generous:
            # Block outputs are large and asked for one at a time, so that only attention is read along.
            if set(sites) <= set(choice) and _estimate_bytes(moment, choice) <= self.max_bytes // 2:
                return choice
        return sites

    def _lose(self, number: int, _: ref[object]) -> None:
        """Note that a call is gone; its replay goes when the shelf is used next.

        Garbage is collected at any moment, in a thread that goes through what is kept, too: its re-entrant lock would
        let it in, so that nothing but an atomic append is safe here.
        """
        self._gone.append(number)

    def _drop_gone(self) -> None:
        """Drop the replays whose calls are gone; the caller holds the lock."""
        while self._gone:
            self._kept.pop(self._gone.popleft(), None)

    def _shrink(self) -> None:
        """Drop what is gone, then the replays that were not used for longest until the rest fits."""
        self._drop_gone()
        while self._kept and (self.num_bytes > self.max_bytes or len(self._kept) > self.max_replays):
            self._kept.popitem(last=False)


_SHELVES: WeakKeyDictionary[object, ReplayShelf] = WeakKeyDictionary()
_SHELVES_LOCK = threading.Lock()


def shelf_of(owner: object) -> ReplayShelf:
    """Return the one shelf of a loaded model, a `PastCall.owner`; it goes when the model goes."""
    with _SHELVES_LOCK:
        return _SHELVES.setdefault(owner, ReplayShelf())


def _is_same(identity: tuple[ref[object], ...], other: tuple[object, ...]) -> bool:
    """Return whether two calls are one."""
    return len(identity) == len(other) and all(mine() is its for mine, its in zip(identity, other, strict=True))


def _estimate_bytes(moment: PastCall, sites: Sequence[Site]) -> int:
    """Estimate from above what reading sites in all passes stores: keys count as many as queries."""
    num_passes = 1 if moment.guidance_passes is None else len(moment.guidance_passes)
    numbers = sum(site.num_positions * site.channels * (2 if site.is_attention else 1) for site in sites)
    return numbers * weight_bytes(moment.network) * num_passes * moment.num_samples
