"""EtaSliders: how far each token goes from the tuned picture towards the target; one slider for all, one for each."""

from typing import cast

import ipywidgets

from colorlab.methods.identifiers import AlignedTarget
from colorlab_widgets.view import View, button, close_parts, row
from colorlab_widgets.view_model import ViewModel

__all__ = ["EtaSliders"]

_PATH = "embedding_path"
# As in the mechanism panel, which has a slider of the same parameter.
_STEP = 0.01


class EtaSliders(View):
    """The parameters of the embedding path as sliders; moving one tunes nothing, it is for the next run.

    Tokens follow the common eta until one of them is moved; from then on each has its own, and moving the common one
    brings them together again. Start, end and padding, where the text encoder gathers the whole text, share one slider.

    Args:
        model: the view-model; its `settings` are shown and set here.

    Attributes:
        all: the common eta.
        tokens: one slider for each token of the target, then one for the rest; none without a target.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self._path = model.colorizer.method.mechanism(_PATH)
        eta = next(parameter for parameter in self._path.parameters if parameter.name == "eta")
        self._range = (eta.low, eta.high)
        self._positions: list[tuple[int, ...]] = []
        self._num_tokens = 0
        self.all = self._slider("eta", "Way of all tokens from the tuned picture (0) to the target (1), and beyond")
        self.all.observe(lambda change: self._set_all(change.new), "value")
        self.same = button("Same for all", "Let every token go as far as eta says", self._unite, "align-justify")
        self.tokens: tuple[ipywidgets.FloatSlider, ...] = ()
        self.words = row()
        self.children = [row(self.all, self.same), self.words]
        self.follow(("settings",), self._show)

    def lay_out(self, aligned: AlignedTarget | None) -> None:
        """Have one slider for each token of a target; none without one."""
        sliders: list[tuple[str, str, tuple[int, ...]]] = []
        if aligned is not None:
            words = [word for *_, word in aligned.rows]
            sliders = [
                (
                    # The same word twice is numbered.
                    word if words.count(word) == 1 else f"{word} {words[: place + 1].count(word)}",
                    f"Way of token {index} from {context!r} as tuned (0) to {word!r} (1), and beyond",
                    (index,),
                )
                for place, (index, context, word) in enumerate(aligned.rows)
            ]
            named = {index for index, _, _ in aligned.rows}
            rest = tuple(index for index in range(aligned.num_tokens) if index not in named)
            told = "Way of start, end and padding, where the text encoder gathers the whole text"
            sliders.append(("the rest", told, rest))
        self._num_tokens = 0 if aligned is None else aligned.num_tokens
        self._positions = [positions for _, _, positions in sliders]
        shown = [(slider.description, slider.tooltip) for slider in self.tokens]
        if shown != [(label, self._with_range(tooltip)) for label, tooltip, _ in sliders]:
            self._replace([self._slider(label, tooltip) for label, tooltip, _ in sliders])
        self._show()

    @property
    def _in_force(self) -> tuple[float, tuple[float, ...]]:
        """The common eta, and that of each token."""
        values = self._path.in_force(self.model.settings)
        eta, etas = cast(float, values["eta"]), cast(tuple[float, ...], values["token_etas"])
        # A list of another length is refused when a run starts; a slider that is moved mends it.
        return eta, etas if len(etas) == self._num_tokens else (eta,) * self._num_tokens

    def _set_all(self, eta: float) -> None:
        """Let every token go equally far."""
        if not _is_echo(eta, self._in_force[0]):
            self.model.set_mechanism(_PATH, eta=eta, token_etas=())

    def _set_token(self, place: int, eta: float) -> None:
        """Let the tokens of one slider go so far, and all others as far as they go now."""
        chosen, (_, etas) = self._positions[place], self._in_force
        if not _is_echo(eta, etas[chosen[0]]):
            changed = tuple(eta if index in chosen else other for index, other in enumerate(etas))
            self.model.set_mechanism(_PATH, token_etas=changed)

    def _unite(self) -> None:
        """Let every token go as far as the common eta says."""
        self.model.set_mechanism(_PATH, token_etas=())

    def _replace(self, sliders: list[ipywidgets.FloatSlider]) -> None:
        """Put other sliders of tokens in, and let those before them go."""
        former, self.tokens = self.words, tuple(sliders)
        for place, slider in enumerate(self.tokens):
            slider.observe(lambda change, place=place: self._set_token(place, change.new), "value")
        self.words = row(*self.tokens)
        self.children = [self.children[0], self.words]
        close_parts(former)
        former.close()

    def _show(self) -> None:
        """Bring the sliders to the values in force."""
        eta, etas = self._in_force
        wanted = [(self.all, eta)]
        wanted += [(slider, etas[chosen[0]]) for slider, chosen in zip(self.tokens, self._positions, strict=True)]
        for slider, value in wanted:
            if slider.value != value:
                slider.value = value
        self.same.disabled = not self._path.in_force(self.model.settings)["token_etas"]

    def _slider(self, label: str, tooltip: str) -> ipywidgets.FloatSlider:
        """Make a slider over the range of eta."""
        low, high = self._range
        made = ipywidgets.FloatSlider(
            low, min=low, max=high, step=_STEP, description=label, continuous_update=False, readout_format=".2f"
        )
        made.layout.width, made.style.description_width = "230px", "56px"
        made.tooltip = self._with_range(tooltip)
        return made

    def _with_range(self, tooltip: str) -> str:
        """Say within which range."""
        return f"{tooltip}; {self._range[0]:g} to {self._range[1]:g}, no unit"


def _is_echo(shown: float, current: float) -> bool:
    """Return whether a slider tells nothing new: a page moves it to the nearest of its places, and tells that."""
    return abs(shown - current) <= _STEP / 2
