"""`colorlab convert`: a published checkpoint becomes a model folder."""

from pathlib import Path
from typing import cast

from colorlab.commands.files import writable_folder
from colorlab.commands.problems import BadUsageError
from colorlab.data import MODEL_INDEX
from colorlab.errors import RangeError
from colorlab.methods.published import CONVERTIBLE, convert_published
from colorlab.registry import PUBLISHED
from colorlab.sampling.schedules import PredictionType


def convert_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    method: str,
    clip: Path | None,
    prediction_type: str | None,
    deformable: Path | None,
    vgg19: Path | None,
) -> None:
    """Convert a checkpoint and say how to load the result.

    Args:
        checkpoint: the published file.
        folder: where the model goes; it must not hold a model already.
        method: whose checkpoint it is.
        clip: folder of CLIP, or of its tokenizer where the checkpoint has the rest; None is refused.
        prediction_type: what ColorizeDiffusion's UNet predicts, `epsilon` or `v_prediction`; None for the others.
        deformable: file of CtrlColor's deformable autoencoder; None for none.
        vgg19: file of VGG19's convolutions, by which an exemplar can guide CtrlColor; None for none.

    Raises:
        BadUsageError: the method cannot be converted, CLIP is not given, or the folder holds a model.
        WeightsError: a file is missing, damaged, or holds something else.
    """
    if method not in CONVERTIBLE:
        raise BadUsageError(f'--method is "{method}"; expected one of {", ".join(CONVERTIBLE)}.')
    if clip is None:
        raise BadUsageError("The checkpoint holds no tokenizer; add --clip DIR (or --tokenizer DIR, the same).")
    if (folder / MODEL_INDEX).exists():
        raise BadUsageError(f"{folder} holds a model already; name another folder with -o.")
    entry = next(entry for entry in PUBLISHED if entry.method == method)
    try:
        with writable_folder(folder):
            convert_published(
                method,
                checkpoint,
                folder,
                clip=clip,
                prediction_type=cast(PredictionType | None, prediction_type),
                deformable=deformable,
                vgg19=vgg19,
                card={"licence": entry.licence, "source": entry.source},
            )
    except RangeError as error:
        raise BadUsageError(str(error)) from error
    print(f'{folder}: load it with colorlab.load("{entry.name}", weights="{folder}").')
