"""GivenView: the words that are given, how the next run samples, and the button that starts it."""

from collections.abc import Callable
from typing import Any

import ipywidgets

from colorlab.errors import ColorlabError
from colorlab.settings import SOLVER_NAMES
from colorlab_widgets.view import View, button, row, tell_label
from colorlab_widgets.view_model import ViewModel, in_words

__all__ = ["GivenView"]

_FROM_PROMPT = ("prompt", "negative_prompt")


class GivenView(View):
    """Prompt and settings, in two rows; a model that reads no words is not given any.

    Args:
        model: the view-model; its `conditioning`, `settings` and `is_live` are shown and set here.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.prompt = _text("prompt", "a red car and a blue house", "What is in the picture, with its colors", "340px")
        self.negative_prompt = _text("not", "", "What the picture should avoid", "150px")
        self.colorize = button("Colorize", "Start a run with what is given now", model.apply, "paint-brush", "primary")
        self.is_live = ipywidgets.ToggleButton(description="Live", icon="bolt", layout=ipywidgets.Layout(width="84px"))
        self.is_live.tooltip = "Let the picture follow every change: a quick preview first, a full run at rest"
        self.link("is_live", self.is_live)
        self.settings: dict[str, Any] = {
            "num_inference_steps": ipywidgets.BoundedIntText(min=1, max=1000),
            "guidance_scale": ipywidgets.FloatSlider(min=1, max=15, step=0.5, readout_format=".1f"),
            "solver": ipywidgets.Dropdown(options=SOLVER_NAMES),
            "seed": ipywidgets.BoundedIntText(min=0, max=2**31 - 1),
        }
        for name, (label, label_px, width_px, tooltip) in _SETTINGS_WORDS.items():
            _dress(self.settings[name], label, label_px, width_px, tooltip)
            self.settings[name].observe(self._put("settings", name), "value")
        for name in _FROM_PROMPT:
            getattr(self, name).observe(self._put("conditioning", name), "value")
            # What the model does not read is not asked for.
            getattr(self, name).layout.display = None if name in model.colorizer.method.fields_read() else "none"
        self.children = [
            row(self.prompt, self.colorize, self.is_live),
            row(self.negative_prompt, *self.settings.values()),
        ]
        self.follow(("conditioning", "settings"), self._show)
        self.follow(("run", "conditioning", "settings", "colorizer"), self._show_changed)

    def _put(self, trait: str, name: str) -> Callable[[Any], None]:
        """Return what puts a control's value into one field of the conditioning or the settings."""

        def put(change: Any) -> None:
            value = getattr(self.model, trait)
            if getattr(value, name) != change.new:
                try:
                    setattr(self.model, trait, value.replace(**{name: change.new}))
                    self.model.error = ""
                except ColorlabError as problem:
                    self.model.error = in_words(problem)

        return put

    def _show(self) -> None:
        """Bring the controls to what is given, as another run may have brought it."""
        for name in _FROM_PROMPT:
            getattr(self, name).value = getattr(self.model.conditioning, name)
        for name, control in self.settings.items():
            if control.value != getattr(self.model.settings, name):
                control.value = getattr(self.model.settings, name)

    def _show_changed(self) -> None:
        """Make the button stand out when pressing it would change something."""
        self.colorize.button_style = "primary" if self.model.is_changed else ""


_SETTINGS_WORDS = {
    "num_inference_steps": ("steps", 38, 104, "Steps from noise to picture, 1 to 1000"),
    "guidance_scale": (
        "guidance",
        60,
        230,
        "Classifier-free guidance, 1 to 15, 1 is off: how strictly the words are followed",
    ),
    "solver": ("solver", 44, 164, "How a step is taken"),
    "seed": ("seed", 36, 118, "The noise a run starts from; the same seed gives the same picture"),
}


def _dress(control: Any, label: str, label_px: int, width_px: int, tooltip: str) -> None:
    """Give a control its label, its width and its tooltip."""
    control.description, control.tooltip = label, tooltip
    control.style.description_width = f"{label_px}px"
    control.layout.width = f"{width_px}px"
    if isinstance(control, ipywidgets.Dropdown):
        tell_label(control)


def _text(label: str, placeholder: str, tooltip: str, basis: str) -> ipywidgets.Text:
    """Make a text field that grows with its row; its value is taken with Enter, or when it is left."""
    layout = ipywidgets.Layout(flex=f"1 1 {basis}", width="auto")
    made = ipywidgets.Text(description=label, placeholder=placeholder, continuous_update=False, layout=layout)
    made.tooltip = f"{tooltip}; Enter to take it"
    made.style.description_width = "52px"
    tell_label(made)
    return made
