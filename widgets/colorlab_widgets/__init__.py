"""Widgets of colorlab: `Studio(colorizer, picture)` shows everything; each view stands alone, too."""

import colorlab_widgets.sketched_exhibits
import colorlab_widgets.tuned_exhibits  # noqa: F401 - both register what is shown
from colorlab_widgets.attention_explorer import AttentionExplorer
from colorlab_widgets.branch_tree import BranchTree
from colorlab_widgets.compare_view import CompareView
from colorlab_widgets.instance_view import InstanceView
from colorlab_widgets.mechanism_panel import MechanismPanel
from colorlab_widgets.painter.widget import StrokePainter
from colorlab_widgets.provenance_view import ProvenanceView
from colorlab_widgets.step_player import StepPlayer
from colorlab_widgets.studio import Studio
from colorlab_widgets.text_edits_view import TextEditsView
from colorlab_widgets.trajectory_view import TrajectoryView
from colorlab_widgets.tuning_view import TuningView
from colorlab_widgets.view_model import ViewModel

__all__ = [
    "AttentionExplorer",
    "BranchTree",
    "CompareView",
    "InstanceView",
    "MechanismPanel",
    "ProvenanceView",
    "StepPlayer",
    "StrokePainter",
    "Studio",
    "TextEditsView",
    "TrajectoryView",
    "TuningView",
    "ViewModel",
]
