"""Queries as methods of a run.

A run knows nothing about inspection, which builds on runs: each method hands the run on to `colorlab.inspection`, which
is imported when the first question is asked, as exhibits import their drawings.
"""

import importlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from colorlab.exhibits import Exhibit
from colorlab.runs.arguments import tells_arguments

if TYPE_CHECKING:
    from colorlab.inspection.studies import Studies
    from colorlab.networks.sites import Site

__all__ = ["Queries", "RunQueries"]

_INSPECTION = "colorlab.inspection"


class Queries:
    """What can be asked about any path of states, a run or a recording; every answer is an `Exhibit`."""

    @tells_arguments
    def attention(
        self,
        step: int,
        *,
        word: str | None = None,
        occurrence: int = 0,
        token: int | Sequence[int] | None = None,
        pixel: tuple[float, float] | None = None,
        region: Any = None,
        measure: str | None = None,
        direction: str = "from",
        site: str | None = None,
        head: int | None = None,
        guidance_pass: str | None = None,
        baseline: bool = False,
        max_bytes: int = 2**26,
    ) -> Exhibit:
        """Show attention at a step that was taken (replay: one network call, none for further questions).

        Give one of word, token, pixel, region and measure; see `colorlab.inspection.queries.attention`.

        Args:
            step: index of the step.
            word: a word, or words in a row, of the prompt or not.
            occurrence: which one if the word comes several times.
            token: position of a token of the context, or several: image tokens, for instance.
            pixel: (x, y) of the picture.
            region: mask (H, W) of the picture, or a stroke.
            measure: "entropy", "spread", "mean_x" or "mean_y".
            direction: whether pixel or region looks ("from") or is looked at ("to").
            site: path or pattern with `*`, see `sites`; None for all of the denoising network, averaged.
            head: index; None for the mean.
            guidance_pass: in which pass; None for the one that sees all that was given, `cond` or `full`.
            baseline: whether to add what chance would give.
            max_bytes: working memory.

        Returns:
            A map (h, w), or shares by token, with the verdict of the replay.

        Raises:
            StateError: the step was not taken, or the network cannot be read.
            RangeError: what is asked for does not exist.
        """
        exhibit: Exhibit = _inspection("queries").attention(
            self,
            step,
            word=word,
            occurrence=occurrence,
            token=token,
            pixel=pixel,
            region=region,
            measure=measure,
            direction=direction,
            site=site,
            head=head,
            guidance_pass=guidance_pass,
            baseline=baseline,
            max_bytes=max_bytes,
        )
        return exhibit

    @tells_arguments
    def sites(
        self,
        glob: str = "*",
        *,
        kind: str | Sequence[str] | None = None,
        resolution: tuple[int, int] | None = None,
    ) -> "tuple[Site, ...]":
        """List the places inside the networks that can be asked about (record).

        See `colorlab.inspection.codings.all_sites`.

        Args:
            glob: pattern for the path; `*` stands for any characters.
            kind: "attn1", "attn2", "resnet", "transformer", "block", or several; None for all.
            resolution: (h, w) of the grid; None for all.

        Raises:
            RangeError: nothing fits; the message names what comes near.
        """
        found: tuple[Site, ...] = _inspection("codings").all_sites(self, glob=glob, kind=kind, resolution=resolution)
        return found

    @tells_arguments
    def features(self, step: int, site: str, *, guidance_pass: str | None = None, baseline: bool = False) -> Exhibit:
        """Show the features of a block as colors (replay); see `colorlab.inspection.views.features`."""
        exhibit: Exhibit = _inspection("views").features(
            self, step, site, guidance_pass=guidance_pass, baseline=baseline
        )
        return exhibit

    @tells_arguments
    def guidance(self, step: int, *, passes: tuple[str, str] | None = None, baseline: bool = False) -> Exhibit:
        """Show how far two guidance passes disagree (record); see `colorlab.inspection.views.guidance`."""
        exhibit: Exhibit = _inspection("views").guidance(self, step, passes=passes, baseline=baseline)
        return exhibit

    @tells_arguments
    def prediction(self, step: int) -> Exhibit:
        """Show the clean picture predicted at a step (record); see `colorlab.inspection.views.prediction`."""
        exhibit: Exhibit = _inspection("views").prediction(self, step)
        return exhibit

    @tells_arguments
    def trajectory(self, *, baseline: bool = False) -> Exhibit:
        """Show the path of the latents in a plane (record); see `colorlab.inspection.views.trajectory`."""
        exhibit: Exhibit = _inspection("views").trajectory(self, baseline=baseline)
        return exhibit

    @tells_arguments
    def settled(
        self, *, tolerance: float = 5.0, decoder: str = "model", baseline: bool = False, progress: bool = True
    ) -> Exhibit:
        """Show after which step the color of every pixel stays (record); see `colorlab.inspection.settling.settled`."""
        exhibit: Exhibit = _inspection("settling").settled(
            self, tolerance=tolerance, decoder=decoder, baseline=baseline, progress=progress
        )
        return exhibit


class RunQueries(Queries):
    """What can be asked about a run besides: it knows its edits, and can sample anew."""

    @tells_arguments
    def effect(
        self,
        step: int,
        *,
        word: str | None = None,
        occurrence: int = 0,
        guidance_pass: str | None = None,
        baseline: bool = False,
    ) -> Exhibit:
        """Show what the edits of a branch change at a step (replay); see `colorlab.inspection.effects.effect`."""
        exhibit: Exhibit = _inspection("effects").effect(
            self, step, word=word, occurrence=occurrence, guidance_pass=guidance_pass, baseline=baseline
        )
        return exhibit

    @tells_arguments
    def pairing(self) -> Exhibit:
        """Show which words each mask belongs to (record); see `colorlab.inspection.phrases.pairing`."""
        exhibit: Exhibit = _inspection("phrases").pairing(self)
        return exhibit

    @tells_arguments
    def phrase(
        self, step: int, name: str, *, shown: str = "attention", site: str = "*", baseline: bool = False
    ) -> Exhibit:
        """Show where a masked phrase looks, before and after guidance (replay); see `inspection.phrases.phrase`."""
        exhibit: Exhibit = _inspection("phrases").phrase(self, step, name, shown=shown, site=site, baseline=baseline)
        return exhibit

    @tells_arguments
    def position_weights(
        self, step: int, edit: int = 0, *, site: str | None = None, head: int | None = None, baseline: bool = False
    ) -> Exhibit:
        """Show where a local text edit of the exemplar reaches the picture (replay).

        See `colorlab.inspection.text_edits.position_weights`.
        """
        exhibit: Exhibit = _inspection("text_edits").position_weights(
            self, step, edit, site=site, head=head, baseline=baseline
        )
        return exhibit

    @tells_arguments
    def guidance_fields(self, *, shown: str = "lengths") -> Exhibit:
        """Show both fields of dual guidance by step (record); see `inspection.guidance_fields`."""
        exhibit: Exhibit = _inspection("guidance_fields").guidance_fields(self, shown=shown)
        return exhibit

    @cached_property
    def study(self) -> "Studies":
        """Questions that take many network calls (studies): cost first, progress, cancel."""
        studies: Studies = _inspection("studies").Studies(self)
        return studies


def _inspection(module: str) -> Any:
    """Import a module of the layer below, when it is needed."""
    return importlib.import_module(f"{_INSPECTION}.{module}")
