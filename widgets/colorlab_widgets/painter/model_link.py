"""The painter and a view-model, kept in step."""

from typing import Any

from traitlets import link

from colorlab_widgets.painter.drawing import Drawing
from colorlab_widgets.painter.state import PainterState
from colorlab_widgets.pictures import as_shown
from colorlab_widgets.view_model import ViewModel

__all__ = ["ModelLink"]

# What lies under the strokes: when it changes, another picture is painted on.
_PICTURES = ("gray", "base_image", "sketch")


class ModelLink:
    """Keep what is painted and what the model is given the same, in both directions.

    What is drawn goes to the model as strokes and masks, and in live mode while it is drawn; `is_held` says so. What
    comes from elsewhere, such as another run of the tree, becomes what is painted. Results are shown over the picture,
    and the chosen stroke or mask is the region that is asked about.

    Args:
        painter: the painter's state.
        model: the view-model.
    """

    def __init__(self, painter: PainterState, model: ViewModel) -> None:
        self._painter, self._model = painter, model
        self._is_taking = False
        self._hashes: dict[str, str] = {}
        self._links = [link((model, name), (painter, name)) for name in ("is_live", "pixel")]
        self._observed = (
            (painter, self._give_drawing, ["draft", "strokes", "masks"]),
            (painter, self._give_hold, ["is_drawing"]),
            (painter, self._give_region, ["chosen", "chosen_mask", "strokes", "masks"]),
            (model, self._take_conditioning, ["conditioning"]),
            (model, self._take_result, ["picture", "is_preview", "step", "num_steps"]),
            (model, self._take_settings, ["settings"]),
        )
        for source, handler, names in self._observed:
            source.observe(handler, names)
        self._take_conditioning(None)
        self._take_result(None)
        self._take_settings(None)

    def close(self) -> None:
        """Let both go their own ways; closing twice does nothing."""
        for source, handler, names in self._observed:
            source.unobserve(handler, names)
        for each in self._links:
            each.unlink()
        self._observed, self._links = (), []

    def _give_drawing(self, _: Any) -> None:
        """Give the model what is drawn; what is not finished only while it is to follow."""
        if self._is_taking:
            return
        painter = self._painter
        if painter.draft is painter.strokes or painter.is_live:
            self._give(Drawing(painter.draft, painter.masks))

    def _give_hold(self, _: Any) -> None:
        """Say whether a pointer is down."""
        self._model.is_held = self._painter.is_drawing

    def _give(self, drawing: Drawing) -> None:
        """Give the model a drawing, if it has another one: in one step, so that it does not start twice."""
        given = self._model.conditioning
        if drawing == Drawing(given.strokes, given.masks):
            return
        self._is_taking = True
        try:
            self._model.conditioning = given.replace(strokes=drawing.strokes, masks=dict(drawing.masks))
        finally:
            self._is_taking = False

    def _give_region(self, _: Any) -> None:
        """Let the model know which stroke or mask is meant."""
        painter = self._painter
        if painter.chosen is not None and painter.chosen < len(painter.strokes):
            self._model.region = painter.strokes[painter.chosen]
        else:
            self._model.region = painter.masks.get(painter.chosen_mask)

    def _take_conditioning(self, _: Any) -> None:
        """Paint on what the model is given, if that came from elsewhere."""
        if self._is_taking:
            return
        painter, conditioning = self._painter, self._model.conditioning
        self._is_taking = True
        try:
            if self._is_new("picture", *_PICTURES):
                painter.picture = as_shown(conditioning)
            drawing = Drawing(conditioning.strokes, conditioning.masks)
            if drawing != painter.history.present:
                painter.do(drawing)
            if self._is_new("exemplar", "exemplar"):
                exemplar = conditioning.exemplar
                painter.exemplar = None if exemplar is None else (exemplar * 255).round().astype("uint8")
        finally:
            self._is_taking = False

    def _is_new(self, what: str, *names: str) -> bool:
        """Tell whether fields of the conditioning have another content than at the last question."""
        before, self._hashes[what] = self._hashes.get(what), self._model.conditioning.content_hash(*names)
        return before != self._hashes[what]

    def _take_result(self, _: Any) -> None:
        """Show the moment that is looked at."""
        painter, model = self._painter, self._model
        painter.result = model.picture if model.is_preview or model.step >= 0 else None
        moment = "" if model.step >= model.num_steps else f"step {model.step}"
        painter.result_label = "preview" if model.is_preview else moment

    def _take_settings(self, _: Any) -> None:
        """Offer the steps that the next run has."""
        self._painter.num_steps = self._model.settings.num_inference_steps
