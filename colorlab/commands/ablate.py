"""`colorlab ablate`: what each mechanism of a model does to the number it exists for."""

from colorlab.commands.catalog import load_colorizer
from colorlab.commands.evaluate import print_tables, to_json
from colorlab.evaluation.ablations import evaluate_ablations
from colorlab.evaluation.batches import PictureMaker


def ablate_model(model: str, *, num_scenes: int, device: str, as_json: bool) -> None:
    """Switch every mechanism of a model on and off and print what that does.

    Args:
        model: name or folder of the model.
        num_scenes: held-out scenes for each mechanism.
        device: where to compute.
        as_json: print JSON instead of a table.

    Raises:
        BadUsageError: the model colors no gray pictures.
    """
    colorizer = load_colorizer(model, device=device)
    method, settings = colorizer.method, colorizer.settings
    report = evaluate_ablations(PictureMaker(method), method.mechanisms, settings, num_scenes)
    reports = [report] if as_json else list(print_tables(colorizer, settings, [report]))
    if as_json:
        print(to_json(colorizer, settings, reports))
