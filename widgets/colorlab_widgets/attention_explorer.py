"""AttentionExplorer: who looks where, for a word, a pixel or a stroke, at any step, layer and head."""

import re
from typing import Any

import ipywidgets
import numpy as np

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.inspection.places import reads_words
from colorlab.inspection.replay import run_sites
from colorlab.networks.passes import main_pass
from colorlab.networks.sites import Site
from colorlab.runs.run import Run
from colorlab_widgets.page import Bars, Chips, Gallery, Picture
from colorlab_widgets.pictures import as_colors, encode_png
from colorlab_widgets.view import View, caption, row
from colorlab_widgets.view_model import LOOK, ViewModel

__all__ = ["AttentionExplorer"]

_NUM_WORDS_SHOWN = 10
_CHANCE = "by chance"
# Not None, which a list of choices takes for nothing chosen.
_ALL_LAYERS = ("all layers", "")


class AttentionExplorer(View):
    """Maps of attention at the step looked at, from one replayed call of the network.

    Choose a word of the prompt, or click a place of the picture: the map shows where the model looks for the word, or
    where the place looks ("from") or who looks at it ("to"). Below are the heads one by one, and what chance gives.

    Args:
        model: the view-model; its `pixel`, `region`, `word`, `site`, `head`, `guidance_pass` and `direction` are shown
            and set here.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.picture = Picture(
            {"click": self._click, "hover": self._hover}, description="Click a place: where does it look?"
        )
        self.words = Chips(
            {"select": self._choose_word}, description="Words of the prompt", tooltip="Where does the model look for"
        )
        self.heads = Gallery({"select": self._choose_head}, description="Heads of the layer, one by one")
        self.looked_at = Bars(description="Words that the place looks at")
        self.caption = caption()
        self._make_controls()
        self._sites: tuple[Site, ...] = ()
        self.children = [
            row(self.words, self.other_word),
            row(self.direction, self.hover),
            row(self.site, self.guidance_pass, self.opacity),
            self.picture,
            self.caption,
            self.heads,
            self.looked_at,
        ]
        self.follow(("conditioning", "run"), self._show_words)
        self.follow(("run",), self._show_choices)
        self.follow(("picture",), lambda: self.picture.show(model.picture), only_shown=True)
        self.follow(("pixel", "region", "word", "occurrence", "conditioning"), self._show_selection)
        self.follow(("run", "step", "is_running"), self._ask_at_rest, only_shown=True)
        self.follow(
            ("pixel", "region", "word", "occurrence", "site", "head", "guidance_pass", "direction"),
            self._ask,
            only_shown=True,
        )

    def _make_controls(self) -> None:
        """Make what is chosen from."""
        model = self.model
        narrow = ipywidgets.Layout(width="210px")
        self.other_word = ipywidgets.Text(
            placeholder="another word ...", continuous_update=False, layout=ipywidgets.Layout(width="130px")
        )
        self.other_word.tooltip = "A word that need not be in the prompt: where would the model look for it?"
        self.other_word.observe(
            lambda change: change.new.strip() and model.set_trait("word", change.new.strip()), "value"
        )
        self.direction = ipywidgets.ToggleButtons(
            options=[("looks from here", "from"), ("looks to here", "to")],
            tooltips=["Where the place looks", "Who looks at the place"],
            style=ipywidgets.ToggleButtonsStyle(button_width="126px"),
        )
        self.link("direction", self.direction)
        self.hover = ipywidgets.Checkbox(
            description="follow the pointer", indent=False, layout=ipywidgets.Layout(width="140px")
        )
        self.hover.tooltip = "Ask about every place the pointer comes to"
        self.hover.observe(lambda change: self.picture.set_trait("is_hover_sent", change.new), "value")
        self.site = ipywidgets.Dropdown(
            options=[_ALL_LAYERS], layout=narrow, tooltip="Attention layer; all are averaged"
        )
        self.site.observe(lambda change: model.set_trait("site", change.new or None), "value")
        self.guidance_pass = ipywidgets.Dropdown(
            options=["cond"],
            layout=ipywidgets.Layout(width="110px"),
            tooltip="Guidance pass: which network call of the step",
        )
        self.guidance_pass.observe(lambda change: change.new and model.set_trait("guidance_pass", change.new), "value")
        self.opacity = ipywidgets.FloatSlider(
            0.65, min=0, max=1, step=0.05, description="map", readout=False, layout=ipywidgets.Layout(width="190px")
        )
        self.opacity.tooltip = "Opacity of the map over the picture, 0 to 1"
        ipywidgets.link((self.opacity, "value"), (self.picture, "opacity"))

    # What the user does.

    def _click(self, x: float, y: float) -> None:
        """Select a place."""
        self.model.pixel = (x, y)

    def _hover(self, x: float, y: float) -> None:
        """Select a place as the pointer passes; the newest only is asked about."""
        self.model.pixel = (x, y)

    def _choose_word(self, index: int) -> None:
        """Select a word of the prompt, or none."""
        words = _words(self.model.conditioning.prompt)
        word, occurrence = words[index] if index >= 0 else ("", 0)
        with self.model.hold_trait_notifications():
            self.model.occurrence = occurrence
            self.model.word = word

    def _choose_head(self, index: int) -> None:
        """Select a head; the mean stands before them in the gallery, chance behind."""
        is_head = 1 <= index < len(self.heads.items) and self.heads.items[index][0] != _CHANCE
        self.model.head = index - 1 if is_head else None

    # What is shown.

    def _show_words(self) -> None:
        """Show the words of the prompt, where the model reads them, and the field for others."""
        has_words = reads_words(self.model.colorizer.method)
        self.words.words = [word for word, _ in _words(self.model.conditioning.prompt)] if has_words else []
        self.other_word.layout.display = None if has_words else "none"
        self.looked_at.description = f"{'Words' if has_words else 'Patches'} that the place looks at"

    def _show_choices(self) -> None:
        """Offer the layers and passes of the run."""
        run = self.model.run
        if run is None:
            return
        self._sites = tuple(site for site in run_sites(run) if site.is_attention)
        options = [_ALL_LAYERS, *((_site_words(site), site.path) for site in self._sites)]
        if tuple(options) != self.site.options:
            self.site.options = options
        passes = run.method.guidance_passes(run.settings)
        if tuple(passes) != self.guidance_pass.options:
            self.guidance_pass.options = passes
            self.guidance_pass.value = main_pass(passes)

    def _show_selection(self) -> None:
        """Mark what is selected."""
        model = self.model
        self.picture.marks = [list(model.pixel)] if model.pixel else []
        words = _words(model.conditioning.prompt)
        chosen = (model.word, model.occurrence)
        self.words.selected = words.index(chosen) if chosen in words else -1

    def _ask_at_rest(self) -> None:
        """Ask again at another step, but not at every step of a run under way."""
        if not self.model.is_running:
            self._ask()

    def _ask(self) -> None:
        """Ask for the map of what is selected, and then for the rest."""
        model, run = self.model, self.model.run
        asked = self._question()
        if run is None or run.step_index == 0 or asked is None:
            self._show_nothing("Choose a word, or click a place of the picture." if run else "")
            return
        step = min(max(model.step, 0), run.step_index - 1)
        model.ask(
            "attention",
            lambda: run.attention(step, head=model.head, **asked),
            self._show_map,
            failed=self._show_nothing,
        )
        if not self.hover.value:
            model.ask(
                "attention by head",
                lambda: self._more(run, step, asked),
                self._show_more,
                failed=self._show_nothing,
                urgency=LOOK - 1,
            )

    def _question(self) -> dict[str, Any] | None:
        """Return what is asked for, as arguments of `run.attention`; None if nothing is selected."""
        model = self.model
        common = {"site": model.site, "guidance_pass": model.guidance_pass}
        if model.pixel is not None:
            return {**common, "pixel": model.pixel, "direction": model.direction}
        if model.region is not None:
            return {**common, "region": model.region, "direction": model.direction}
        return {**common, "word": model.word, "occurrence": model.occurrence} if model.word else None

    def _more(self, run: Run, step: int, asked: dict[str, Any]) -> tuple[Exhibit, list[np.ndarray], Exhibit | None]:
        """Ask for the mean with its null baseline, for each head, and for the words that a place looks at."""
        try:
            mean = run.attention(step, baseline=True, **asked)
        except RangeError:
            # A prompt of one word has no other order: there is no chance to compare with, and its card stays away.
            mean = run.attention(step, **asked)
        paths = mean.provenance["sites"]
        num_heads = min(site.heads for site in self._sites if site.path in paths)
        heads = [run.attention(step, head=head, **asked).array for head in range(num_heads)]
        is_place = "word" not in asked
        words = None
        if is_place and asked["direction"] == "from" and any(site.kind == "attn2" for site in self._sites):
            words = run.attention(step, baseline=True, **{**asked, "site": "*attn2"})
        return mean, heads, words

    def _show_map(self, exhibit: Exhibit) -> None:
        """Lay the map over the picture."""
        is_map = exhibit.array.ndim == 2
        self.picture.overlay = encode_png(as_colors(exhibit.array)) if is_map else b""
        self.caption.value = exhibit.caption

    def _show_more(self, found: tuple[Exhibit, list[np.ndarray], Exhibit | None]) -> None:
        """Show heads as small multiples on one scale, and words as bars."""
        mean, heads, words = found
        maps = [mean.array, *heads] if mean.array.ndim == 2 else []
        if maps:
            limits = (0.0, float(np.nanmax(np.stack(maps))))
            cards = [("mean", "Mean of the heads", mean.array)]
            cards += [(f"head {index}", f"Head {index} alone", values) for index, values in enumerate(heads)]
            if mean.baseline is not None:
                cards.append((_CHANCE, "The null baseline: what chance would give", mean.baseline))
            self.heads.show([(name, tooltip, as_colors(values, limits)) for name, tooltip, values in cards])
            self.heads.selected = 0 if self.model.head is None else self.model.head + 1
        else:
            self.heads.show([])
        self.looked_at.bars = [] if words is None else _word_bars(words)

    def _show_nothing(self, why: str) -> None:
        """Take the map away and say why."""
        self.picture.overlay = b""
        self.caption.value = why
        self.heads.show([])
        self.looked_at.bars = []


def _words(prompt: str) -> list[tuple[str, int]]:
    """Return the words of a prompt, each with how often it came before."""
    found = re.findall(r"\w+", prompt)
    return [(word, [other.lower() for other in found[:index]].count(word.lower())) for index, word in enumerate(found)]


def _site_words(site: Site) -> str:
    """Name a layer for a list."""
    kind = "words" if site.kind == "attn2" else "places"
    block = site.path.split(".attentions")[0].replace("_blocks.", " ").replace("_block", "")
    return f"{block} · to {kind} · {site.grid[0]}x{site.grid[1]}"


def _word_bars(exhibit: Exhibit) -> list[dict[str, Any]]:
    """Return the tokens that get most attention, but for start and end: they take what no word wants."""
    names = exhibit.provenance["token_names"]
    order = [index for index in np.argsort(-exhibit.array).tolist() if not names[index].startswith("<|")][
        :_NUM_WORDS_SHOWN
    ]
    chance = exhibit.baseline
    return [
        {
            "name": names[index].removesuffix("</w>"),
            "value": float(exhibit.array[index]),
            "baseline": None if chance is None else float(chance[index]),
            "text": f"{exhibit.array[index]:.1%}",
        }
        for index in order
    ]
