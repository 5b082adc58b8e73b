"""InstanceView: which words of the prompt belong to which mask, and what keeping them there does to the attention."""

from collections.abc import Mapping
from typing import Any

import ipywidgets
import numpy as np

from colorlab.errors import ColorlabError
from colorlab.exhibits import Exhibit
from colorlab.methods.phrases import object_phrases, pair_masks
from colorlab.segmentation import AttentionSegmenter, RegionSegmenter, Segmenter, propose_masks
from colorlab_widgets.page import Chips, Gallery, Picture
from colorlab_widgets.painter.canvas import MASK_COLORS
from colorlab_widgets.pictures import as_colors, as_shown, small
from colorlab_widgets.view import View, button, caption, row
from colorlab_widgets.view_model import ViewModel, in_words

__all__ = ["InstanceView"]

_HINT = "Click an object, or draw around it with the Lasso; then choose its words."
_OUTSIDE = 0.35
_THUMBNAIL_PX = 96
_MASK_ALPHA, _CHOSEN_ALPHA = 90, 170


class InstanceView(View):
    """Masks of objects, each paired with the words of the prompt that describe its object.

    A mask is named by its words, so that pairing is naming. Masks come from the painter's lasso, from a click, or from
    the words by themselves. Below are the maps of the chosen phrase at the step looked at, without guidance and with.

    Args:
        model: the view-model; its `masks` are shown and set here, the chosen one is its `region`.
        by_click: finds an object by a click; by the picture's own edges unless a segmenter is given, such as SAM.
        by_words: finds objects by their words; by the model's own attention unless one is given, such as CLIPSeg.
    """

    def __init__(
        self, model: ViewModel, *, by_click: Segmenter | None = None, by_words: Segmenter | None = None
    ) -> None:
        super().__init__(model)
        self.by_click = by_click or RegionSegmenter()
        self.by_words = by_words or AttentionSegmenter(model.colorizer.method)
        self._names: list[str] = []
        self.chosen: str | None = None
        self.picture = Picture({"click": self._click}, description="Click an object to mark it", max_height_px=300)
        self.masks = Gallery({"select": self._choose}, description="Masks and their words", card_px=96)
        self.phrases = Chips({"select": self._pair}, description="Objects of the prompt", tooltip="Pair the mask with")
        self.other = ipywidgets.Text(
            placeholder="other words ...", continuous_update=False, layout=ipywidgets.Layout(width="150px")
        )
        self.other.tooltip = "Words as they stand in the prompt; 'cup#2' is the second cup. Enter pairs the mask"
        self.other.observe(lambda change: change.new.strip() and self._pair_with(change.new.strip()), "value")
        self.find = button(
            "Find by words", "Look for the objects of the prompt that have no mask", self._find, "search"
        )
        self.remove = button("Remove", "Take the chosen mask away", self._remove, "trash")
        self.ask = button(
            "Before and after", "Where the phrase looks at this step, without guidance and with", self._ask, "eye"
        )
        self.shown = ipywidgets.Dropdown(
            options=["attention", "scores"],
            layout=ipywidgets.Layout(width="110px"),
            tooltip="Share of the attention, 0 to 1, or scores before the softmax",
        )
        self.note = caption(_HINT)
        self.maps = Gallery({"select": lambda index: None}, description="Before and after guidance", card_px=150)
        self.caption = caption()
        self.children = [
            self.picture,
            row(self.find, self.remove),
            self.masks,
            row(self.phrases, self.other),
            self.note,
            row(self.ask, self.shown),
            self.maps,
            self.caption,
        ]
        self.follow(("conditioning", "settings"), self._show, only_shown=True)
        self.follow(("region",), self._follow_region, only_shown=True)
        self.follow(("run", "step", "masks"), self._show_no_maps, only_shown=True)

    # What the user does.

    def _click(self, x: float, y: float) -> None:
        """Choose the mask under the pointer, or make one of what is there."""
        model, given = self.model, self.model.conditioning
        under = [name for name, mask in model.masks.items() if mask[int(y), int(x)]]
        if under:
            self._take(under[-1])
            return
        name = self._free_name(model.masks)

        def found(masks: dict[str, np.ndarray]) -> None:
            if masks and model.conditioning is given:
                self._put({**model.masks, **masks}, name)

        model.ask("mask", lambda: propose_masks(given, self.by_click, pixels={name: (x, y)}), found, failed=self._say)

    def _find(self) -> None:
        """Look for the objects that have no mask yet."""
        model, given = self.model, self.model.conditioning
        names = [name for name in object_phrases(given.prompt) if name not in given.masks]
        if not names:
            self._say("Every object of the prompt has its mask." if given.prompt else "Write a prompt first.")
            return

        def found(masks: dict[str, np.ndarray]) -> None:
            if model.conditioning is not given:
                return
            missed = [name for name in names if name not in masks]
            self._put({**model.masks, **masks})
            if missed:
                self._say(f"Not found: {', '.join(missed)}.")

        # All objects are looked for, so that one does not take another's place.
        every = object_phrases(given.prompt)
        model.ask(
            "masks",
            lambda: {
                name: mask for name, mask in propose_masks(given, self.by_words, names=every).items() if name in names
            },
            found,
            failed=self._say,
        )

    def _choose(self, index: int) -> None:
        """Choose a mask."""
        if 0 <= index < len(self._names):
            self._take(self._names[index])

    def _pair(self, index: int) -> None:
        """Pair the chosen mask with an object of the prompt."""
        if 0 <= index < len(self.phrases.words):
            self._pair_with(self.phrases.words[index])

    def _pair_with(self, words: str) -> None:
        """Name the chosen mask by its words; a mask that had them gets the name that is free now."""
        masks, chosen = self.model.masks, self.chosen
        self.other.value = ""
        if chosen not in masks:
            self._say("Choose a mask first: click it.")
            return
        if words == chosen:
            return
        swapped = {words: chosen, chosen: words}
        self._put({swapped.get(name, name): mask for name, mask in masks.items()}, words)

    def _remove(self) -> None:
        """Take the chosen mask away."""
        self._put({name: mask for name, mask in self.model.masks.items() if name != self.chosen})

    # The model.

    def _put(self, masks: Mapping[str, np.ndarray], chosen: str | None = None) -> None:
        """Give the model other masks and choose one of them, or say why they cannot be."""
        try:
            self.model.conditioning = self.model.conditioning.replace(masks=dict(masks))
        except ColorlabError as problem:
            self._say(in_words(problem))
            return
        if chosen is not None:
            self._take(chosen)

    def _take(self, name: str) -> None:
        """Choose a mask: it is the region that the other views ask about, too."""
        self.chosen = name
        self.model.region = self.model.masks[name]
        self._show()

    def _free_name(self, masks: Mapping[str, Any]) -> str:
        """Return the first object of the prompt that has no mask; a number where all have one."""
        phrases = [name for name in object_phrases(self.model.conditioning.prompt) if name not in masks]
        numbers = (f"object {number}" for number in range(1, len(masks) + 2))
        return phrases[0] if phrases else next(name for name in numbers if name not in masks)

    # What is shown.

    def _follow_region(self) -> None:
        """Choose the mask that was chosen elsewhere, such as the one just drawn with the lasso."""
        region = self.model.region
        if not isinstance(region, np.ndarray):
            return
        found = next((name for name, mask in self.model.masks.items() if np.array_equal(mask, region)), None)
        if found is not None and found != self.chosen:
            self.chosen = found
            self._show()

    def _show(self) -> None:
        """Show the masks, the words, and whether they fit each other."""
        model = self.model
        masks, picture = model.masks, as_shown(model.conditioning)
        if self.chosen not in masks:
            self.chosen = next(reversed(masks), None)
        self._names = list(masks)
        self.picture.show(_with_masks(picture, masks, self.chosen))
        shaded = {
            name: np.where(mask[..., None], picture, (picture * _OUTSIDE).astype(np.uint8))
            for name, mask in masks.items()
        }
        self.masks.show([(name, f"Choose the mask of {name!r}", small(shaded[name], _THUMBNAIL_PX)) for name in masks])
        self.masks.selected = -1 if self.chosen is None else self._names.index(self.chosen)
        words = list(object_phrases(model.conditioning.prompt))
        self.phrases.words = words
        self.phrases.selected = words.index(self.chosen) if self.chosen in words else -1
        self.remove.disabled = self.chosen is None
        self.note.value = self._fit() if masks else _HINT

    def _fit(self) -> str:
        """Say which tokens each mask belongs to, or what is wrong with the pairs."""
        model = self.model
        try:
            pairs, notes = pair_masks(
                model.conditioning, model.colorizer.method.components, as_published=model.settings.as_published
            )
        except ColorlabError as problem:
            return in_words(problem)
        tokens = "; ".join(f"{pair.phrase}: {_places(pair.tokens)}" for pair in pairs)
        return " ".join([f"{tokens}.", *notes])

    def _ask(self) -> None:
        """Ask for the maps of the chosen phrase."""
        run, name, shown = self.model.run, self.chosen, self.shown.value
        if run is None or not run.step_index or name not in run.conditioning.masks:
            self.caption.value = f"Colorize first: the run does not know the mask {name!r}." if name else _HINT
            return
        step = min(max(self.model.step, 0), run.step_index - 1)
        self.model.ask("phrase", lambda: run.phrase(step, name, shown=shown), self._show_maps, failed=self._say_below)

    def _show_maps(self, exhibit: Exhibit) -> None:
        """Show both maps on one scale, each with its overlap with the mask."""
        limits = (float(np.nanmin(exhibit.array)), float(np.nanmax(exhibit.array)))
        overlaps = exhibit.provenance["overlaps"] or [float("nan")] * len(exhibit.array)
        self.maps.show(
            [
                (f"{label}: {share:.2f}", "Intersection over union with the mask", as_colors(values, limits))
                for label, share, values in zip(exhibit.provenance["labels"], overlaps, exhibit.array, strict=True)
            ]
        )
        self.caption.value = (
            f"{exhibit.caption} Scale {limits[0]:.3g} to {limits[1]:.3g} ({exhibit.unit}); the numbers are the overlap "
            "with the mask, intersection over union."
        )

    def _show_no_maps(self) -> None:
        """Take away maps of another moment."""
        self.maps.show([])
        self.caption.value = ""

    def _say(self, why: str) -> None:
        """Say something about masks and words."""
        self.note.value = why

    def _say_below(self, why: str) -> None:
        """Say why there are no maps."""
        self.caption.value = why


def _with_masks(picture: np.ndarray, masks: Mapping[str, np.ndarray], chosen: str | None) -> np.ndarray:
    """Tint each mask in its color, the chosen one most."""
    tinted = picture.astype(np.float32)
    for index, (name, mask) in enumerate(masks.items()):
        hexadecimal = MASK_COLORS[index % len(MASK_COLORS)]
        color = np.array([int(hexadecimal[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.float32)
        alpha = (_CHOSEN_ALPHA if name == chosen else _MASK_ALPHA) / 255
        tinted[mask] = (1 - alpha) * tinted[mask] + alpha * color
    return np.round(tinted).astype(np.uint8)


def _places(tokens: tuple[int, ...]) -> str:
    """Write places of tokens."""
    return f"token {tokens[0]}" if len(tokens) == 1 else f"tokens {tokens[0]} to {tokens[-1]}"
