"""TrajectoryView: the path of the latents, and at which step the color of every place was decided."""

from colorlab.exhibits import Exhibit
from colorlab.runs.run import Run
from colorlab_widgets.page import Path2D, Picture
from colorlab_widgets.pictures import as_colors, encode_png
from colorlab_widgets.view import View, caption, heading
from colorlab_widgets.view_model import LOOK_AHEAD, ViewModel

__all__ = ["TrajectoryView"]


class TrajectoryView(View):
    """How a run came from noise to picture; asked for when it is looked at, from the record alone.

    Args:
        model: the view-model.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.path = Path2D({"select": self._go_to}, description="Path of the latents from noise to picture")
        self.path_caption = caption()
        self.settled = Picture(
            description="Dark places were decided early, bright ones late", opacity=0.75, max_height_px=300
        )
        self.settled_caption = caption()
        self._shown: tuple[Run, int] | None = None
        self.children = [
            heading("Path of the latents"),
            self.path,
            self.path_caption,
            heading("When was the color decided?"),
            self.settled,
            self.settled_caption,
        ]
        self.layout.align_items = "stretch"
        self.follow(("run", "steps_taken", "is_running"), self._ask, only_shown=True)
        self.follow(("step",), self._mark)

    def _go_to(self, index: int) -> None:
        """Look at the step that led to a state."""
        run = self.model.run
        if run is not None:
            self.model.look_at(run.num_steps if index >= run.num_steps else max(index - 1, 0))

    def _mark(self) -> None:
        """Mark the state that the step looked at led to."""
        run = self.model.run
        self.path.selected = -1 if run is None or self.model.step < 0 else min(self.model.step + 1, run.num_steps)

    def _ask(self) -> None:
        """Ask when the run has come to rest; a settle map decodes every step."""
        run = self.model.run
        if run is None or run.step_index < 2:
            self._shown, self.path.points, self.path.baseline, self.settled.overlay = None, [], [], b""
            self.path_caption.value, self.settled_caption.value = "The path appears after two steps.", ""
        elif not self.model.is_running and self._shown != (run, run.step_index):
            self._shown = (run, run.step_index)
            self.model.ask("trajectory", lambda: run.trajectory(baseline=True), self._show_path, urgency=LOOK_AHEAD)
            self.model.ask(
                "settled",
                lambda: (run, run.settled(progress=False), run.preview()),
                self._show_settled,
                urgency=LOOK_AHEAD,
            )

    def _show_path(self, exhibit: Exhibit) -> None:
        """Draw the path and a random walk with steps of the same lengths."""
        timesteps = exhibit.provenance["timesteps"]
        self.path.names = [f"t = {t}" if t is not None else "picture" for t in timesteps]
        self.path.baseline = [] if exhibit.baseline is None else exhibit.baseline.T.astype(float).tolist()
        self.path.points = exhibit.array.T.astype(float).tolist()
        self.path_caption.value = f"{exhibit.caption} Dashed: a random walk with steps of the same lengths."

    def _show_settled(self, found: tuple[Run, Exhibit, object]) -> None:
        """Lay the settle map over the picture."""
        run, exhibit, picture = found
        self.settled.show(picture)
        self.settled.overlay = encode_png(as_colors(exhibit.array, (0, run.num_steps)))
        self.settled_caption.value = exhibit.caption

    def close(self) -> None:
        """Stop following the model, and let the run go."""
        self._shown = None
        super().close()
