"""`colorlab convert`: a published checkpoint becomes a model folder."""

from pathlib import Path

from colorlab.commands.files import check_writable
from colorlab.commands.problems import BadUsageError
from colorlab.data import MODEL_INDEX
from colorlab.errors import RangeError
from colorlab.methods.published import CONVERTIBLE, convert_published
from colorlab.registry import PUBLISHED


def convert_checkpoint(
    checkpoint: Path, folder: Path, *, method: str, tokenizer: Path, deformable: Path | None
) -> None:
    """Convert a checkpoint and say how to load the result.

    Args:
        checkpoint: the published file.
        folder: where the model goes; it must not hold a model already.
        method: whose checkpoint it is.
        tokenizer: folder of CLIP's tokenizer.
        deformable: file of CtrlColor's deformable autoencoder; None for none.

    Raises:
        BadUsageError: the method can not be converted, or the folder holds a model.
        WeightsError: a file is missing, damaged, or holds something else.
    """
    if method not in CONVERTIBLE:
        raise BadUsageError(f'--method is "{method}"; expected one of {", ".join(CONVERTIBLE)}.')
    if (folder / MODEL_INDEX).exists():
        raise BadUsageError(f"{folder} holds a model already; name another folder with -o.")
    check_writable(folder)
    entry = next(entry for entry in PUBLISHED if entry.method == method)
    try:
        convert_published(
            method,
            checkpoint,
            folder,
            tokenizer=tokenizer,
            deformable=deformable,
            card={"licence": entry.licence, "source": entry.source},
        )
    except RangeError as error:
        raise BadUsageError(str(error)) from error
    print(f'{folder}: load it with colorlab.load("{entry.name}", weights="{folder}").')
