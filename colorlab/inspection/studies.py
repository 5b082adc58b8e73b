"""The studies of a run: `run.study.NAME(...)` makes one and finishes it, `run.study.plan.NAME(...)` only plans it."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from colorlab.exhibits import Exhibit
from colorlab.inspection.chroma import DecoderName
from colorlab.inspection.heads import plan_head_ranking
from colorlab.inspection.levels import plan_levels
from colorlab.inspection.phrases import plan_phrase_iou
from colorlab.inspection.provenance import Attribution, Removal, plan_provenance
from colorlab.inspection.seeds import plan_seeds
from colorlab.inspection.study import Study
from colorlab.networks.sites import ATTENTION_KINDS, SiteKind
from colorlab.runs.arguments import tells_arguments
from colorlab.runs.run import Run

__all__ = ["Studies", "StudyMenu", "StudyPlans"]

Answer = TypeVar("Answer")


class StudyMenu(Generic[Answer]):
    """Every study there is, once; what becomes of a planned study is the subclass's business.

    Args:
        run: what the studies are about.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def __repr__(self) -> str:
        names = ", ".join(name for name in vars(StudyMenu) if not name.startswith("_"))
        return f"{type(self).__name__} of {self.run.name!r}: {names}"

    @tells_arguments
    def seeds(self, n: int = 8, *, batch_size: int = 4, baseline: bool = False, progress: bool = True) -> Answer:
        """Sample the run with several seeds and show how far their colors spread, with the pictures beside the map.

        Args:
            n: number of seeds: the run's own and those that follow it.
            batch_size: pictures that share a network call.
            baseline: whether to add the spread of pictures moved at random.
            progress: whether to show a bar.

        See `colorlab.inspection.seeds.plan_seeds`.
        """
        return self._answer(plan_seeds(self.run, n, batch_size=batch_size, baseline=baseline), progress)

    @tells_arguments
    def head_ranking(
        self,
        step: int,
        *,
        site: str = "*",
        kind: SiteKind | Sequence[SiteKind] = ATTENTION_KINDS,
        region: Any = None,
        decoder: DecoderName = "model",
        batch_size: int = 4,
        baseline: bool = False,
        progress: bool = True,
    ) -> Answer:
        """Rank attention heads by how much chroma of the clean prediction moves when each is ablated at a step.

        Args:
            step: index of a step that was taken.
            site: path of a site, or a pattern with `*`.
            kind: "attn1", "attn2", or both.
            region: mask (H, W) of the picture, or a stroke; None for everywhere.
            decoder: "model" or "linear".
            batch_size: heads that share a network call.
            baseline: whether to add what each head moves in the region elsewhere.
            progress: whether to show a bar.

        See `colorlab.inspection.heads.plan_head_ranking`.
        """
        study = plan_head_ranking(
            self.run,
            step,
            site=site,
            kind=kind,
            region=region,
            decoder=decoder,
            batch_size=batch_size,
            baseline=baseline,
        )
        return self._answer(study, progress)

    @tells_arguments
    def provenance(
        self,
        *,
        pixel: tuple[float, float] | None = None,
        region: Any = None,
        attribution: Attribution = "leave_one_out",
        num_orders: int = 8,
        words: Sequence[str] | None = None,
        everywhere: bool = True,
        exemplar_grid: tuple[int, int] = (2, 2),
        fast: bool = False,
        steps: range | None = None,
        batch_size: int = 8,
        baseline: bool = False,
        progress: bool = True,
    ) -> Answer:
        """Find out to what the color of a pixel, of a region or of every pixel is due, by taking it away.

        Sources are the words, the strokes, groups of patches of the exemplar and its text edits.

        Args:
            pixel: (x, y) of the picture.
            region: mask (H, W) of the picture, or a stroke; with neither, a map for every source.
            attribution: "leave_one_out" or "shapley".
            num_orders: orders of "shapley".
            words: those that are told apart; None for all.
            everywhere: whether the text encoder does not hear of a removed word either.
            exemplar_grid: rows and columns of groups of exemplar patches.
            fast: whether ablated runs end where the color is decided.
            steps: at which steps sources are removed; None for all.
            batch_size: ablated runs that share a network call.
            baseline: whether to add the mean of places elsewhere.
            progress: whether to show a bar.

        See `colorlab.inspection.provenance.plan_provenance` and `Removal` there.
        """
        removal = Removal(
            attribution=attribution,
            num_orders=num_orders,
            words=words,
            everywhere=everywhere,
            exemplar_grid=exemplar_grid,
            fast=fast,
            steps=steps,
        )
        study = plan_provenance(self.run, removal, pixel=pixel, region=region, batch_size=batch_size, baseline=baseline)
        return self._answer(study, progress)

    @tells_arguments
    def levels(
        self, prompts: Mapping[str, str] | None = None, *, baseline: bool = False, progress: bool = True
    ) -> Answer:
        """Make the picture under several descriptions: complete, partial, scarce and empty, all else equal.

        Args:
            prompts: descriptions by the names of their levels; None takes color words out of the run's own prompt.
            baseline: whether to add the spread of pictures moved at random.
            progress: whether to show a bar.

        See `colorlab.inspection.levels.plan_levels`.
        """
        return self._answer(plan_levels(self.run, prompts, baseline=baseline), progress)

    @tells_arguments
    def phrase_iou(self, *, steps: Sequence[int] | None = None, progress: bool = True) -> Answer:
        """Measure by step how well the attention of masked phrases covers their masks, with guidance and without.

        Args:
            steps: indices of steps that were taken; None for all.
            progress: whether to show a bar.

        See `colorlab.inspection.phrases.plan_phrase_iou`.
        """
        return self._answer(plan_phrase_iou(self.run, steps=steps), progress)

    def _answer(self, study: Study[Any], progress: bool) -> Answer:
        """Do with a planned study what this menu is for."""
        raise NotImplementedError


class StudyPlans(StudyMenu[Study[Any]]):
    """Plans studies: nothing is computed, and the `cost` of a plan can be read before it is finished."""

    def _answer(self, study: Study[Any], progress: bool) -> Study[Any]:
        return study


class Studies(StudyMenu[Exhibit]):
    """Makes studies: each tells its estimated cost on its bar, and ends early when cancelled or interrupted (Ctrl-C).

    What was done until then is returned with a warning; the run is only read, and stays usable.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._running: list[Study[Any]] = []
        self._lock = threading.Lock()

    @property
    def plan(self) -> StudyPlans:
        """The same studies, planned and not started: `run.study.plan.seeds(n=8).cost`."""
        return StudyPlans(self.run)

    @property
    def running(self) -> tuple[Study[Any], ...]:
        """Studies of this run that are under way, in whatever thread."""
        with self._lock:
            return tuple(self._running)

    def cancel(self) -> None:
        """Stop all studies of this run that are under way, each after its present network call; from any thread."""
        for study in self.running:
            study.cancel()

    def _answer(self, study: Study[Any], progress: bool) -> Exhibit:
        with self._lock:
            self._running.append(study)
        try:
            return study.finish(progress=progress)
        finally:
            with self._lock:
                self._running.remove(study)
