"""Drawing: functions that return a matplotlib `Figure`, and the drawings of exhibits.

| module | what is in it |
| --- | --- |
| `figures` | pictures, maps, curves, color differences |
| `drawings` | one drawing for each kind of exhibit; importing this package registers them |
"""

from colorlab.plotting.drawings import (
    draw_arrows,
    draw_contact_sheet,
    draw_curves,
    draw_difference,
    draw_gallery,
    draw_heatmap,
    draw_image,
    draw_maps,
    draw_pairs,
    draw_paths,
    draw_ranking,
    draw_stacked_curves,
)
from colorlab.plotting.figures import (
    LabFigure,
    plot_curves,
    plot_delta_e,
    plot_heatmap,
    plot_images,
    plot_trajectory,
)

__all__ = [
    "LabFigure",
    "draw_arrows",
    "draw_contact_sheet",
    "draw_curves",
    "draw_difference",
    "draw_gallery",
    "draw_heatmap",
    "draw_image",
    "draw_maps",
    "draw_pairs",
    "draw_paths",
    "draw_ranking",
    "draw_stacked_curves",
    "plot_curves",
    "plot_delta_e",
    "plot_heatmap",
    "plot_images",
    "plot_trajectory",
]
