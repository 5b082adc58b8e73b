"""Studio: everything around one view-model: the picture, its steps, and why it looks as it does."""

from functools import partial
from typing import Any

import ipywidgets
import traitlets

from colorlab.colorizer import Colorizer
from colorlab.mechanisms.instance_guidance import InstanceGuidance
from colorlab.methods.base import Method
from colorlab.settings import Settings
from colorlab_widgets.attention_explorer import AttentionExplorer
from colorlab_widgets.branch_tree import BranchTree
from colorlab_widgets.compare_view import CompareView
from colorlab_widgets.files import FilePanel
from colorlab_widgets.given_view import GivenView
from colorlab_widgets.instance_view import InstanceView
from colorlab_widgets.lazy_views import LazyViews
from colorlab_widgets.live import LiveMode
from colorlab_widgets.mechanism_panel import MechanismPanel
from colorlab_widgets.page import PageView
from colorlab_widgets.painter.widget import StrokePainter
from colorlab_widgets.provenance_view import ProvenanceView
from colorlab_widgets.step_player import StepPlayer
from colorlab_widgets.text_edits_view import TextEditsView
from colorlab_widgets.trajectory_view import TrajectoryView
from colorlab_widgets.tuning_view import TuningView
from colorlab_widgets.view import View
from colorlab_widgets.view_model import ViewModel

__all__ = ["Studio"]


class Status(PageView):
    """What goes on, in the page; event "stop"."""

    script = "status"
    is_busy = traitlets.Bool(help="Whether the worker has something to do").tag(sync=True)
    activity = traitlets.Unicode(help="What it does").tag(sync=True)
    progress = traitlets.Float(help="Share of the steps taken, [0, 1]").tag(sync=True)
    error = traitlets.Unicode(help="What went wrong last").tag(sync=True)
    notice = traitlets.Unicode(help="What does not reach the model").tag(sync=True)


class Studio(View):
    """The whole laboratory for one picture.

    Args:
        colorizer: the loaded model.
        picture: what to color: a `Conditioning`, or just the picture (path, PIL image or array).
        settings: how to sample; the model's own by default.
        is_live: whether the picture follows every change from the start.

    Attributes:
        model: the view-model, with the run looked at (`studio.model.run`) and all others (`studio.model.tree`).
        views: those behind the tabs, by name; each is made when it is first seen or asked for.

    Raises:
        ImageError: the picture cannot be used.
    """

    # A Studio whose picture could not be read is closed, too, when it is freed.
    _is_open = False

    def __init__(
        self, colorizer: Colorizer, picture: Any, settings: Settings | None = None, *, is_live: bool = False
    ) -> None:
        super().__init__(ViewModel(colorizer, picture, settings))
        self.add_class("colorlab-whole")
        model = self.model
        self.live = LiveMode(model)
        self.status = Status({"stop": model.stop})
        self.painter = StrokePainter(model)
        self.player = StepPlayer(model, with_picture=False)
        self.history = BranchTree(model)
        self.views = LazyViews({name: partial(kind, model) for name, kind in _views_of(colorizer.method).items()})
        panels = [self.painter.detach_panel(), *self.views.places.values()]
        self.tabs = ipywidgets.Tab(panels, layout=ipywidgets.Layout(flex="1 1 400px", min_width="0"))
        for index, title in enumerate(("Paint", *self.views)):
            self.tabs.set_title(index, title)
        # Who cannot paint colors comes to look.
        self.tabs.selected_index = 0 if "strokes" in colorizer.method.fields_read() else 1
        self.tabs.observe(lambda change: self._show_tab(), "selected_index")
        left = ipywidgets.VBox(
            [self.painter, self.player, self.history],
            layout=ipywidgets.Layout(flex="1 1 400px", min_width="0"),
        )
        columns = ipywidgets.HBox([left, self.tabs], layout=ipywidgets.Layout(flex_flow="row wrap"))
        columns.add_class("colorlab-columns")
        left.add_class("colorlab-studio")
        self.given = GivenView(model)
        self.children = [self.given, self.status, columns]
        self.follow(("is_busy", "activity", "progress", "error", "notice"), self._show_status)
        self._show_tab()
        model.is_live = is_live
        self._is_open = True

    def _show_status(self) -> None:
        """Say what goes on."""
        model = self.model
        with self.showing, self.status.hold_sync():
            for name in ("is_busy", "activity", "progress", "error", "notice"):
                setattr(self.status, name, getattr(model, name))

    def _show_tab(self) -> None:
        """Let the view that is seen work, and no other."""
        index = self.tabs.selected_index
        self.views.show(list(self.views)[index - 1] if index else None)

    def bring(self, name: str) -> None:
        """Bring one of the views to the front."""
        self.tabs.selected_index = 1 + list(self.views).index(name)

    def close(self) -> None:
        """End the worker and close every widget; the runs stay usable. Closing twice does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self.live.close()
        self.model.worker.close()
        for view in (self.given, self.painter, self.player, self.history, self.views):
            view.close()
        super().close()
        self.model.close()


def _views_of(method: Method) -> dict[str, type[View]]:
    """Return the views that mean something for a model, by the names of their tabs."""
    is_edited = "manipulations" in method.fields_read()
    has_instances = any(isinstance(mechanism, InstanceGuidance) for mechanism in method.mechanisms)
    is_tuned = any(mechanism.phase == "tune" for mechanism in method.mechanisms)
    return {
        **({"Tuning": TuningView} if is_tuned else {}),
        **({"Text edits": TextEditsView} if is_edited else {}),
        "Attention": AttentionExplorer,
        **({"Instances": InstanceView} if has_instances else {}),
        "Why this color": ProvenanceView,
        "Mechanisms": MechanismPanel,
        "Trajectory": TrajectoryView,
        "Compare": CompareView,
        "Files": FilePanel,
    }
