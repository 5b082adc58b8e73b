"""MechanismPanel: every mechanism of the model with its switch, its parameters, and what it shows of itself.

It knows no mechanism by name. Exhibits are shown by their kind: `register_exhibit_view` adds a way to show a kind, and
`register_exhibits` exhibits that a mechanism does not have at hand, such as those that need a replay.
"""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import ipywidgets
import numpy as np

from colorlab.errors import ColorlabError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import SWITCH, Mechanism, Parameter, Value
from colorlab.runs.run import Run
from colorlab_widgets.page import Chips, Gallery, Picture
from colorlab_widgets.pictures import as_colors, encode_png
from colorlab_widgets.view import View, caption, tell_label
from colorlab_widgets.view_model import ViewModel, in_words

__all__ = ["MechanismPanel", "Shown", "register_exhibit_view", "register_exhibits"]

_NUM_ARROWS_ACROSS = 16


@dataclass(frozen=True)
class Shown:
    """How an exhibit is shown.

    Args:
        picture: (H, W, 3) uint8.
        overlay: map over the picture in colors, (h, w, 3) uint8; None for none.
        arrows: (x1, y1, x2, y2) in pixels of the picture.
        beside: (name, tooltip, picture) of what stands below it, the null baseline, for instance.
    """

    picture: np.ndarray
    overlay: np.ndarray | None = None
    arrows: list[list[float]] = field(default_factory=list)
    beside: list[tuple[str, str, np.ndarray]] = field(default_factory=list)


ExhibitView = Callable[[Exhibit, np.ndarray], Shown]

MoreExhibits = Callable[[Run, int], dict[str, Exhibit]]

_VIEWS: dict[str, ExhibitView] = {}
_MORE: list[MoreExhibits] = []


def register_exhibit_view(kind: str) -> Callable[[ExhibitView], ExhibitView]:
    """Register a function that shows exhibits of one kind, given the picture of the moment; use it as a decorator."""

    def decorate(function: ExhibitView) -> ExhibitView:
        _VIEWS[kind] = function
        return function

    return decorate


def register_exhibits(function: MoreExhibits) -> MoreExhibits:
    """Register a function of a run and a step that gives more exhibits, by "mechanism.exhibit"; use it as a decorator.

    It runs in the worker's thread and returns nothing for runs that it has nothing to say about.
    """
    _MORE.append(function)
    return function


@register_exhibit_view("heatmap")
def show_heatmap(exhibit: Exhibit, picture: np.ndarray) -> Shown:
    """Lay a map over the picture, with its null baseline on the same scale below."""
    if exhibit.array.ndim != 2:
        return show_drawing(exhibit, picture)
    parts = [exhibit.array, *([] if exhibit.baseline is None else [exhibit.baseline])]
    limits = (float(np.nanmin(np.stack(parts))), float(np.nanmax(np.stack(parts))))
    beside = [("found", f"{limits[0]:.3g} to {limits[1]:.3g} {exhibit.unit}", as_colors(exhibit.array, limits))]
    if exhibit.baseline is not None:
        beside.append(
            ("null baseline", "What nothing would give, on the same scale", as_colors(exhibit.baseline, limits))
        )
    return Shown(picture, as_colors(exhibit.array, limits), beside=beside)


@register_exhibit_view("arrows")
def show_arrows(exhibit: Exhibit, picture: np.ndarray) -> Shown:
    """Draw the mean of an exhibit (tap, h, w, xy) as an arrow from each cell, in pixels of the picture."""
    mean = exhibit.array.mean(axis=0)
    (rows, columns), (height, width) = mean.shape[:2], picture.shape[:2]
    every = max(1, round(max(rows, columns) / _NUM_ARROWS_ACROSS))
    down, across = height / rows, width / columns
    arrows = [
        [
            (column + 0.5) * across,
            (row + 0.5) * down,
            (column + 0.5 + float(mean[row, column, 0])) * across,
            (row + 0.5 + float(mean[row, column, 1])) * down,
        ]
        for row in range(every // 2, rows, every)
        for column in range(every // 2, columns, every)
    ]
    return Shown(picture, arrows=arrows)


def show_drawing(exhibit: Exhibit, picture: np.ndarray) -> Shown:
    """Show an exhibit as its registered drawing."""
    return Shown(np.ascontiguousarray(exhibit.plot().to_array()))


class MechanismPanel(View):
    """Switch, parameters, words and exhibits of every mechanism of the model.

    Args:
        model: the view-model; its `settings` are shown and set here.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.mechanisms: tuple[Mechanism, ...] = tuple(model.colorizer.method.mechanisms)
        self._is_writing = False
        self.problem = caption()
        self.controls = {
            mechanism.name: {
                parameter.name: self._control(mechanism, parameter)
                for parameter in (Parameter(SWITCH, True, doc="Whether it acts."), *mechanism.parameters)
            }
            for mechanism in self.mechanisms
        }
        self.exhibits = Chips({"select": self._choose}, description="Exhibits", tooltip="Show")
        self.picture = Picture(description="What the exhibit shows", max_height_px=360)
        self.beside = Gallery({"select": lambda index: None}, description="The map and its null baseline", card_px=120)
        self.caption = caption()
        self._found: dict[str, tuple[Exhibit, np.ndarray]] = {}
        self.ask = ipywidgets.Button(
            description="Show what they did", icon="eye", layout=ipywidgets.Layout(width="auto")
        )
        self.ask.tooltip = "Let every mechanism explain itself at the step looked at, and at decoding"
        self.ask.on_click(lambda _: self._ask())
        cards = [self._card(mechanism) for mechanism in self.mechanisms]
        self.children = [*cards, self.problem, self.ask, self.exhibits, self.picture, self.beside, self.caption]
        self.picture.layout.display = "none"
        self.follow(("settings",), self._show_settings)
        self.follow(("run",), lambda: setattr(self.ask, "disabled", model.run is None))

    # Parameters.

    def _card(self, mechanism: Mechanism) -> ipywidgets.Widget:
        """Put the controls of one mechanism together."""
        name = html.escape(mechanism.name.replace("_", " "))
        words = ipywidgets.HTML(f"<b>{name}</b> <span class='colorlab-quiet'>{html.escape(mechanism.phase)}</span>")
        switch, *others = self.controls[mechanism.name].values()
        first = ipywidgets.HBox([switch, words], layout=ipywidgets.Layout(align_items="center"))
        doc = ipywidgets.HTML(f"<div class='colorlab-quiet'>{html.escape(mechanism.doc)}</div>")
        card = ipywidgets.VBox([first, doc, *others], layout=ipywidgets.Layout(padding="6px 8px"))
        card.add_class("colorlab-panel")
        return card

    def _control(self, mechanism: Mechanism, parameter: Parameter) -> ipywidgets.Widget:
        """Make the control of one parameter, with its unit and its sentence."""
        unit = f" ({parameter.unit})" if parameter.unit else ""
        label = f"{parameter.name.replace('_', ' ')}{unit}"
        control: ipywidgets.Widget
        if parameter.name == SWITCH:
            control = ipywidgets.Checkbox(indent=False, layout=ipywidgets.Layout(width="18px"))
        elif isinstance(parameter.default, bool):
            control = ipywidgets.Checkbox(description=label, indent=False)
        elif parameter.choices:
            control = ipywidgets.Dropdown(description=label, options=parameter.choices)
        elif isinstance(parameter.default, (str, tuple)):
            control = ipywidgets.Text(description=label, continuous_update=False)
        else:
            control = ipywidgets.FloatSlider(
                description=label, min=parameter.low, max=parameter.high, step=_step(parameter), readout_format=".3g"
            )
        if not isinstance(control, ipywidgets.Checkbox):
            control.style.description_width = "130px"
            control.layout.width = "330px"
        is_number = isinstance(control, ipywidgets.FloatSlider)
        bounds = f" {parameter.low:g} to {parameter.high:g}{' ' if parameter.unit else ''}{parameter.unit}." * is_number
        control.tooltip = f"{mechanism.name.replace('_', ' ')}, {label}: {parameter.doc}{bounds}"
        if isinstance(control, (ipywidgets.Dropdown, ipywidgets.Text)):
            tell_label(control)
        control.observe(lambda change: self._set(mechanism, parameter, change.new), "value")
        return control

    def _set(self, mechanism: Mechanism, parameter: Parameter, shown: Any) -> None:
        """Put what a control shows into the settings."""
        current = mechanism.in_force(self.model.settings)[parameter.name]
        # A page that draws a slider sends its place back, which differs from the value in the last digit.
        is_echo = isinstance(shown, float) and math.isclose(shown, cast(float, current), rel_tol=1e-9)
        if self._is_writing or is_echo:
            return
        try:
            self.model.set_mechanism(mechanism.name, **{parameter.name: _read(parameter, shown)})
            self.problem.value = ""
        except ColorlabError as problem:
            self.problem.value = in_words(problem)
            self._show_settings()

    def _show_settings(self) -> None:
        """Bring the controls to the values in force."""
        self._is_writing = True
        try:
            for mechanism in self.mechanisms:
                values = mechanism.in_force(self.model.settings)
                for name, control in self.controls[mechanism.name].items():
                    shown = _written(values[name])
                    if control.value != shown:
                        control.value = shown
        finally:
            self._is_writing = False

    # Exhibits.

    def _ask(self) -> None:
        """Let every mechanism explain itself."""
        run, step = self.model.run, self.model.step
        if run is None or not run.step_index:
            self.caption.value = "Take a step first."
            return
        step = min(max(step, 0), run.step_index - 1)

        def explain() -> dict[str, tuple[Exhibit, np.ndarray]]:
            moment, whole = run.preview(step), run.preview()
            found = {name: (exhibit, moment) for name, exhibit in run.explain(step).items()}
            for more in _MORE:
                found |= {name: (exhibit, moment) for name, exhibit in more(run, step).items()}
            return found | {name: (exhibit, whole) for name, exhibit in run.explain().items()}

        self.model.ask("exhibits", explain, self._take, failed=self._say)

    def _take(self, found: dict[str, tuple[Exhibit, np.ndarray]]) -> None:
        """Offer what was explained, and show the first of it."""
        self._found = found
        self.exhibits.words = [name.replace("_", " ").replace(".", ": ") for name in found]
        self.exhibits.selected = -1
        if found:
            self._choose(0)
        else:
            self._say("No mechanism has something to show here.")

    def _choose(self, index: int) -> None:
        """Show one exhibit."""
        self.exhibits.selected = index
        self.picture.layout.display = "none" if index < 0 else None
        if index < 0:
            self.beside.show([])
            self.caption.value = ""
            return
        exhibit, picture = list(self._found.values())[index]
        shown = _VIEWS.get(exhibit.kind, show_drawing)(exhibit, picture)
        self.picture.show(shown.picture)
        self.picture.overlay = b"" if shown.overlay is None else encode_png(shown.overlay)
        self.picture.arrows = shown.arrows
        self.beside.show(shown.beside)
        self.caption.value = exhibit.caption

    def _say(self, why: str) -> None:
        """Say why there is nothing to show."""
        self.caption.value = why

    def close(self) -> None:
        """Stop following the model, and let the exhibits go."""
        self._found = {}
        super().close()


def _step(parameter: Parameter) -> float:
    """Return a step for a slider, 1/100 of the range or finer, so that the default is one of its places.

    A page moves a slider to the nearest place when it is drawn: looking at it would change what is set.
    """
    span, default = parameter.high - parameter.low, cast(float, parameter.default)
    coarsest = 10.0 ** math.floor(math.log10(span / 100))
    steps = [coarsest / part for part in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000)]
    return next((step for step in steps if abs(math.remainder(default - parameter.low, step)) < 1e-6 * step), steps[-1])


def _read(parameter: Parameter, shown: Any) -> Value:
    """Turn what a control shows into a value of a parameter; what is no number is refused by the parameter."""
    if isinstance(parameter.default, tuple):
        parts = [part for part in str(shown).replace(",", " ").split() if part]
        try:
            return tuple(float(part) for part in parts)
        except ValueError:
            return str(shown)
    value: Value = shown
    return value


def _written(value: Value) -> Any:
    """Turn a value of a parameter into what its control shows."""
    return ", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else value
