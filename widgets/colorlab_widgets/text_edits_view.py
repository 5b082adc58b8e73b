"""TextEditsView: text edits of the exemplar in their order, and the position weights of each over the exemplar."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets
import torch

from colorlab.conditioning import USUAL_TARGET_SCALE, Conditioning, Manipulation
from colorlab.errors import ColorlabError
from colorlab.mechanisms.global_manipulation import TextEdit
from colorlab.mechanisms.position_weights import LocalEdit, relative_similarity
from colorlab.methods.colorizediffusion_inputs import EVERYTHING, NO_ANCHOR
from colorlab.settings import Settings
from colorlab.sketches import invert_sketch, is_inverted
from colorlab_widgets.page import Bars, Chips
from colorlab_widgets.pictures import encode_png
from colorlab_widgets.position_matrix import PositionMatrix
from colorlab_widgets.view import View, button, caption, row, tell_label
from colorlab_widgets.view_model import ViewModel, in_words

__all__ = ["TextEditsView"]

_NEW = Manipulation("blue", USUAL_TARGET_SCALE)
_TEXTS = {
    "target_text": ("to", "the blue car", "What is wanted"),
    "anchor_text": ("from", "the red car", "What is there and is taken away; empty for nothing"),
    "control_text": (
        "where",
        "as from; or everything",
        "What the exemplar shows where the edit acts; empty for the same as from, everything for the whole exemplar",
    ),
}
# Of the four thresholds: corrected weights begin at the second.
_UNREAD = {"corrected": [0], "published": []}


@dataclass(frozen=True, eq=False)
class _Encoded:
    """What moving a threshold needs: everything the networks are asked for.

    Args:
        tokens: (1, 1 + N, D), of the exemplar.
        edits: with their texts encoded, in order.
        view: (3, S, S) uint8, the exemplar.
    """

    tokens: torch.Tensor
    edits: tuple[TextEdit, ...]
    view: torch.Tensor


class TextEditsView(View):
    """Text edits of the exemplar: their words, their order, and where each acts. Nothing is sampled to show it.

    Moving a threshold needs no network: similarities are known, and weights follow from them while the handle is held.
    When it is let go, the edit becomes part of what is given, and of the next run.

    Args:
        model: the view-model; manipulations and sketch of its `conditioning`, and its `settings`, are shown and set
            here.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.method: Any = model.colorizer.method
        self.elapsed_ms = 0.0
        self._encoded: _Encoded | None = None
        self._is_writing = False
        self.turn = button("Turn the sketch around", "White lines on black become black on white", self._turn, "adjust")
        self.edits = Chips({"select": self._select}, description="Text edits, in order", tooltip="Show the edit to")
        self.order = [
            button("Add", "One more edit, after all others", self._add, "plus"),
            button("Earlier", "Let it act before the one before", lambda: self._shift(-1), "arrow-left"),
            button("Later", "Let it act after the next one", lambda: self._shift(1), "arrow-right"),
            button("Remove", "Take this edit out", self._remove, "trash"),
        ]
        self._make_fields()
        self.matrix = PositionMatrix(
            {"move": self._move, "drop": self._drop}, description="Weight of each patch over the exemplar"
        )
        self.projections = Bars(description="Projection of the class token on the texts, before and after")
        self.caption = caption()
        self.children = [
            self.turn,
            row(self.edits, *self.order),
            self.fields,
            self.matrix,
            self.projections,
            self.caption,
        ]
        self.layout.align_items = "stretch"
        self.follow(("conditioning",), self._show_edits)
        self.follow(("conditioning", "settings"), self._ask, only_shown=True)

    def _make_fields(self) -> None:
        """Make the controls of one edit."""
        self.texts: dict[str, ipywidgets.Text] = {}
        for name, (label, placeholder, tooltip) in _TEXTS.items():
            field = ipywidgets.Text(
                description=label, placeholder=placeholder, continuous_update=False, layout={"width": "230px"}
            )
            field.tooltip, field.style.description_width = f"{tooltip}; Enter to take it", "44px"
            tell_label(field)
            field.observe(self._put(name), "value")
            self.texts[name] = field
        self.scale = ipywidgets.FloatSlider(
            min=-5, max=25, step=0.25, description="scale", continuous_update=False, layout={"width": "230px"}
        )
        self.scale.tooltip, self.scale.style.description_width = "Wanted projection on the text, no unit", "44px"
        self.scale.observe(self._put("target_scale"), "value")
        self.enhance = ipywidgets.Checkbox(description="erase first", indent=False, layout={"width": "100px"})
        self.enhance.tooltip = "Enhance: take what there is of the anchor away before the target is added"
        self.enhance.observe(self._put("enhance"), "value")
        self.mode = ipywidgets.Dropdown(options=("corrected", "published"), layout={"width": "110px"})
        self.mode.tooltip = "Which weights: at least 0 and inside alone, or those of the released code"
        self.mode.observe(lambda change: self._set_mode(change.new), "value")
        self.shown = ipywidgets.Dropdown(options=("weights", "similarity"), layout={"width": "110px"})
        self.shown.tooltip = "What colors the cells"
        self.shown.observe(lambda change: self.matrix.set_trait("shown", change.new), "value")
        self.fields = ipywidgets.VBox(
            [row(*self.texts.values()), row(self.scale, self.enhance, self.mode, self.shown)],
        )

    @property
    def manipulations(self) -> tuple[Manipulation, ...]:
        """The edits that are given, in order."""
        return self.model.conditioning.manipulations

    @property
    def index(self) -> int:
        """The edit that is shown; -1 for none."""
        return min(max(self.edits.selected, 0), len(self.manipulations) - 1)

    # What the user does.

    def _put(self, name: str) -> Callable[[Any], None]:
        """Return what puts a control's value into one field of the edit that is shown."""
        if name not in ("anchor_text", "control_text"):
            return lambda change: self._change(**{name: change.new})
        return lambda change: self._put_place()

    def _put_place(self) -> None:
        """Let the edit act on what it takes away, unless another place is written."""
        anchor, where = (self.texts[name].value.strip() for name in ("anchor_text", "control_text"))
        # Everything is kept as that word: an empty text would later pass for the place of whatever anchor is written.
        self._change(anchor_text=anchor, control_text=where or _place_of(anchor))

    def _change(self, **fields: Any) -> None:
        """Change fields of the edit that is shown; what cannot be is told, and the controls go back."""
        if self._is_writing or self.index < 0:
            return
        try:
            changed = list(self.manipulations)
            changed[self.index] = replace(changed[self.index], **fields)
            self._give(changed)
        except ColorlabError as problem:
            self.model.error = in_words(problem)
            self._show_edits()

    def _give(self, manipulations: Sequence[Manipulation]) -> None:
        """Make these edits what is given."""
        self.model.error = ""
        if tuple(manipulations) != self.manipulations:
            self.model.conditioning = self.model.conditioning.replace(manipulations=tuple(manipulations))

    def _add(self) -> None:
        """Put one more edit at the end."""
        self._give([*self.manipulations, _NEW])
        self._select(len(self.manipulations) - 1)

    def _remove(self) -> None:
        """Take the edit that is shown out."""
        self._give([one for index, one in enumerate(self.manipulations) if index != self.index])

    def _shift(self, by: int) -> None:
        """Let the edit that is shown change places with a neighbour."""
        index, other = self.index, self.index + by
        if index >= 0 and 0 <= other < len(self.manipulations):
            moved = list(self.manipulations)
            moved[index], moved[other] = moved[other], moved[index]
            self.edits.selected = other
            self._give(moved)

    def _select(self, index: int) -> None:
        """Show another edit."""
        self.edits.selected = index if index >= 0 else self.index
        self._show_edits()
        self._show_weights()

    def _turn(self) -> None:
        """Turn the lines of the sketch around."""
        given = self.model.conditioning
        self.model.conditioning = given.replace(sketch=invert_sketch(given.sketch))

    def _set_mode(self, mode: str) -> None:
        """Set which weights are meant."""
        if not self._is_writing:
            self.model.set_mechanism("position_weights", mode=mode)

    def _move(self, values: Sequence[float]) -> None:
        """Show the weights under thresholds that are held; nothing is given yet."""
        self._show_weights(thresholds=values)

    def _drop(self, values: Sequence[float]) -> None:
        """Give thresholds that were let go."""
        self._change(thresholds=tuple(values))

    # What is shown.

    def _show_edits(self) -> None:
        """Bring chips and controls to what is given."""
        self._is_writing = True
        try:
            given, index = self.model.conditioning, self.index
            self.turn.layout.display = None if given.sketch is not None and is_inverted(given.sketch) else "none"
            self.edits.words = [f"{place}. {one.target_text}" for place, one in enumerate(self.manipulations, 1)]
            self.edits.selected = index
            is_chosen = index >= 0
            self.fields.layout.display = None if is_chosen else "none"
            if is_chosen:
                one = self.manipulations[index]
                for name, field in self.texts.items():
                    field.value = _where(one) if name == "control_text" else getattr(one, name)
                self.scale.value = min(max(one.target_scale, self.scale.min), self.scale.max)
                self.enhance.value = one.enhance
                self.matrix.thresholds = list(one.thresholds)
        finally:
            self._is_writing = False

    def _ask(self) -> None:
        """Have the networks encode what is new; text and exemplar are cached by the model."""
        given, settings = self.model.conditioning, self.model.settings
        self._is_writing = True
        self.mode.value = str(self.method.position_weights.in_force(settings)["mode"])
        self._is_writing = False
        if given.exemplar is None or not given.manipulations:
            self._show_nothing("Give an exemplar." if given.exemplar is None else "Add an edit.")
            return
        self.model.ask("text edits", lambda: self._encode(given, settings), self._take, failed=self._show_nothing)

    def _encode(self, given: Conditioning, settings: Settings) -> tuple[_Encoded, list[str]]:
        """Ask the networks for tokens and texts, in the worker's thread."""
        with self.method.lock, torch.no_grad():
            tokens = self.method.encode_exemplar(given, settings)
            edits, notes = self.method.encode_edits(given, tokens, settings)
            view = self.method.exemplar_view(given, settings)[0]
        return _Encoded(tokens, tuple(edits), view), notes

    def _take(self, found: tuple[_Encoded, list[str]]) -> None:
        """Show what was encoded."""
        self._encoded, notes = found
        self.matrix.image = encode_png(self._encoded.view.permute(1, 2, 0).numpy().copy())
        self._show_weights()
        if notes:
            self.caption.value = f"{' '.join(notes)} {self.caption.value}"

    def _show_nothing(self, why: str) -> None:
        """Take the matrix away and say why."""
        self._encoded = None
        self.matrix.layout.display = self.projections.layout.display = "none"
        self.caption.value = why

    def _show_weights(self, thresholds: Sequence[float] | None = None) -> None:
        """Show where the edit acts; with other thresholds than the given ones while a handle is held."""
        encoded, index = self._encoded, self.index
        if encoded is None or not 0 <= index < len(encoded.edits):
            return
        began_s = time.perf_counter()
        edits = list(encoded.edits)
        if thresholds is not None:
            moved = replace(edits[index].manipulation, thresholds=tuple(thresholds))
            edits[index] = replace(edits[index], manipulation=moved)
        is_local = self.method.exemplar_part == "local"
        self.matrix.layout.display = None if is_local else "none"
        self.projections.layout.display = "none" if is_local else None
        with torch.no_grad():
            if is_local:
                polarity = self.method.components["exemplar_projection"].config.polarity
                # Edits after this one do not change it.
                done = self.method.position_weights.apply(
                    encoded.tokens, edits[: index + 1], self.model.settings, polarity=polarity
                )[1]
                self._show_matrix(done[index], has_place=edits[index].control is not None)
            else:
                values = self.method.global_manipulation.apply(encoded.tokens[:, :1], edits)[1][index]
                self.projections.bars = _bars(values)
                self.caption.value = "Only the class token is read: the edit acts on the whole picture."
        self.elapsed_ms = 1000 * (time.perf_counter() - began_s)

    def _show_matrix(self, edit: LocalEdit, *, has_place: bool) -> None:
        """Put numbers of one local edit into the matrix; thresholds count where it acts at a place alone."""
        weights = edit.weights[0, :, 0].float().nan_to_num()
        relative = relative_similarity(edit.similarity)[0, :, 0].float().nan_to_num()
        side = round(len(weights) ** 0.5)
        with self.matrix.hold_sync():
            self.matrix.rows = self.matrix.columns = side
            self.matrix.similarity = edit.similarity[0, :, 0].float().tolist()
            self.matrix.relative = relative.tolist()
            self.matrix.unread = _UNREAD[self.mode.value] if has_place else list(range(4))
            self.matrix.weights = weights.tolist()
        up, down = int((weights > 0).sum()), int((weights < 0).sum())
        self.caption.value = (
            f"{up} of {len(weights)} patches move toward the target" + (f", {down} away from it" if down else "") + "."
        )

    def close(self) -> None:
        """Stop following the model, and let the tokens go."""
        self._encoded = None
        super().close()


def _where(one: Manipulation) -> str:
    """Return what stands in the field where: nothing for the place of the anchor."""
    return "" if one.control_text == _place_of(one.anchor_text) else one.control_text or EVERYTHING


def _place_of(anchor: str) -> str:
    """Return where an edit acts by default: on its anchor, which the word none stands for the lack of."""
    return "" if anchor == NO_ANCHOR else anchor


def _bars(projections: torch.Tensor) -> list[dict[str, Any]]:
    """Return projections (2, 2), on (target, anchor) before and after, as bars; texts that are not there left out."""
    return [
        {"name": f"{text}, {when}", "value": float(value), "text": f"{float(value):.2f}"}
        for text, pair in zip(("target", "anchor"), projections, strict=True)
        for when, value in zip(("before", "after"), pair, strict=True)
        if torch.isfinite(value)
    ]
