"""How the mechanism panel shows what ColorizeDiffusion's mechanisms did; importing this module registers it."""

import contextlib

import numpy as np

from colorlab.errors import StateError
from colorlab.exhibits import Exhibit
from colorlab.runs.run import Run
from colorlab_widgets.mechanism_panel import Shown, register_exhibit_view, register_exhibits
from colorlab_widgets.pictures import as_colors

__all__ = ["dual_guidance_by_step", "show_matrix", "weights_over_picture"]

_SIGNED_COLORS = "RdBu_r"


@register_exhibit_view("matrix")
def show_matrix(exhibit: Exhibit, picture: np.ndarray) -> Shown:
    """Lay cells over the picture that they belong to, the exemplar; white is zero where values have signs."""
    under = next(iter(exhibit.pictures.values()), picture)
    values = exhibit.array
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    if exhibit.provenance.get("is_signed"):
        colors, limits = as_colors(values, (-largest, largest), _SIGNED_COLORS), (-largest, largest)
    else:
        colors, limits = as_colors(values), (float(np.nanmin(values)), float(np.nanmax(values)))
    return Shown(under, colors, beside=[("cells", f"{limits[0]:.3g} to {limits[1]:.3g}", colors)])


@register_exhibits
def weights_over_picture(run: Run, step: int) -> dict[str, Exhibit]:
    """Show the position weights of every edit over the picture that is made, through attention at a step."""
    edits = getattr(run.segment_at(step).prepared, "weights", ())
    found = {}
    # At steps where the exemplar does not count there is nothing to show.
    with contextlib.suppress(StateError):
        for edit in range(len(edits)):
            found[f"position_weights.over_picture_{edit}"] = run.position_weights(step, edit, baseline=True)
    return found


@register_exhibits
def dual_guidance_by_step(run: Run, step: int) -> dict[str, Exhibit]:
    """Show lengths and angle of both guidance fields at every step."""
    found = {}
    if "dual_guidance" in [mechanism.name for mechanism in run.method.mechanisms]:
        for shown in ("lengths", "angle"):
            # With one field there is no angle, without guidance no field.
            with contextlib.suppress(StateError):
                found[f"dual_guidance.{shown}_by_step"] = run.guidance_fields(shown=shown)
    return found
