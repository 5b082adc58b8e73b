"""What the mechanism panel shows of DiffColor beside its mechanisms' own; importing this module registers it."""

import contextlib

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.methods.adaptation import CONTRASTIVE, RECONSTRUCTION
from colorlab.methods.diffcolor import DiffColor
from colorlab.runs.run import Run
from colorlab.tuning.embedding_exhibits import embedding_distance, identifier_attention
from colorlab.tuning.exhibits import contrastive_bench, gradient_split, overlaid_trajectories, weight_drift
from colorlab_widgets.mechanism_panel import register_exhibits

__all__ = ["drift_by_block", "embedding_and_identifiers", "paths_of_two_runs", "what_clip_sees"]


@register_exhibits
def what_clip_sees(run: Run, step: int) -> dict[str, Exhibit]:
    """Compare the moment's picture with the context and the anti-color prompts, and show where the loss would act."""
    method = run.method
    if not isinstance(method, DiffColor):
        return {}
    adaptation = method.adaptation
    context = run.conditioning.prompt if adaptation is None else adaptation.context
    picture = run.preview(step)
    # A model without CLIP has nothing to compare with.
    with contextlib.suppress(StateError):
        return {
            "contrastive_tuning.bench": contrastive_bench(method, picture, context, run.settings),
            "contrastive_tuning.gradient": gradient_split(method, picture, context, run.settings),
        }
    return {}


@register_exhibits
def drift_by_block(run: Run, step: int) -> dict[str, Exhibit]:
    """Show how far each stage moved each block of the denoising network."""
    method = run.method
    if not isinstance(method, DiffColor) or method.adaptation is None:
        return {}
    stages = [stage for stage in (CONTRASTIVE, RECONSTRUCTION) if method.adaptation.weights(stage)]
    return {f"contrastive_tuning.drift_{stage}": weight_drift(method, stage) for stage in stages}


@register_exhibits
def embedding_and_identifiers(run: Run, step: int) -> dict[str, Exhibit]:
    """Show how far stage 2 moved each token, and where identifiers and the words in their places are looked at."""
    if not isinstance(run.method, DiffColor):
        return {}
    found = {}
    # Without stage 2 there are none; with the path switched off any prompt goes, also one that is no target.
    with contextlib.suppress(StateError, RangeError):
        found["embedding_path.distance"] = embedding_distance(run.method)
        found["embedding_path.identifiers"] = identifier_attention(run, step)
    return found


@register_exhibits
def paths_of_two_runs(run: Run, step: int) -> dict[str, Exhibit]:
    """Lay the path of a run over that of the newest other one of the same length, at another eta for instance."""
    if not isinstance(run.method, DiffColor) or run not in run.tree:
        return {}
    for other in reversed(run.tree.runs):
        if other is not run:
            # Runs of other pictures or lengths have no plane in common.
            with contextlib.suppress(ShapeError, StateError):
                return {"embedding_path.two_paths": overlaid_trajectories(run, other)}
    return {}
