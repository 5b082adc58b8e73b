"""Colorizer: a loaded model of one method; the facade from a name and a picture to a run."""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError, RangeError, RunFileError
from colorlab.methods.absent import AbsentMethod, ModelDescription
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.base import Method, Prepared, users_stacklevel
from colorlab.methods.folder import load_method, read_index, rewired_index, save_method
from colorlab.registry import find_model, method_of
from colorlab.runs.decoding import decode_adaptations, decode_models, decode_tree
from colorlab.runs.journal import read_journal
from colorlab.runs.run import Run
from colorlab.runs.run_file import TUNING_TABLE, RunFileWarning, read_archive
from colorlab.runs.shortcuts import Shortcuts, apply_shortcuts
from colorlab.runs.tree import Tree
from colorlab.settings import Settings

if TYPE_CHECKING:
    from colorlab.tuning.plan import TuningPlan
    from colorlab.tuning.tuning import Tuning

__all__ = ["Colorizer", "load", "open"]


class Colorizer:
    """A loaded model of one method.

    Args:
        method: networks, guidance and mechanisms of the model.
        settings: what runs use where nothing else is said; the method's own by default.
        card: what the model card says.

    Example:
        >>> colorizer = colorlab.load("mini/lcad")  # doctest: +SKIP
        >>> colorizer.start("photo.jpg", prompt="a red car").finish().image.shape  # doctest: +SKIP
        (480, 640, 3)
    """

    def __init__(
        self,
        method: Method,
        *,
        settings: Settings | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.settings = method.default_settings if settings is None else settings
        self.card = dict(card or {})

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        name: str = "",
        method: str | None = None,
    ) -> "Colorizer":
        """Load a model folder; the SHA-256 of every weight file is checked first.

        Args:
            folder: with a `model_index.json`, as `save_pretrained` writes it.
            device: where the networks go.
            dtype: their number format, whatever the files have.
            name: what the model is called; the folder's name by default.
            method: wires the networks by another method than the folder's own.

        Raises:
            WeightsError: files are missing, damaged, of another hash, or do not fit together.
            RangeError: the device does not exist here, or `dtype` is no floating format.
        """
        folder = Path(folder).expanduser()
        device = _check_device(device)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise RangeError(
                f"dtype is {dtype!r}, but a floating format such as torch.float32 or torch.float16 is expected."
            )
        index = read_index(folder)
        if method is not None:
            index = rewired_index(index, method)
        loaded = load_method(folder, index, device=device, dtype=dtype, name=name)
        settings = loaded.default_settings.replace(**index.settings)
        return cls(loaded, settings=settings, card=index.card)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model in diffusers' folder format, weights as safetensors in the dtype they have now.

        Returns:
            The folder; `from_pretrained` reads it back bit for bit.

        Raises:
            ColorlabError: the folder cannot be written.
        """
        folder = Path(folder).expanduser()
        with self.method.lock:
            save_method(self.method, folder, settings=self.settings, card=self.card)
        return folder

    @property
    def name(self) -> str:
        """What the model is called in tables and captions."""
        return self.method.model_name

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.method.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the networks."""
        return self.method.dtype

    def prepare(self, conditioning: Conditioning, settings: Settings | None = None) -> Prepared:
        """Encode a conditioning; each field is encoded only if it is new.

        Starting a run does this by itself; call it to have the slow part over.

        Raises:
            RangeError: the method lacks something it requires.
        """
        with self.method.lock, torch.no_grad():
            prepared = self.method.prepare(conditioning, settings or self.settings)
        self.method.warn(prepared.notes)
        return prepared

    def start(
        self,
        conditioning: Any = None,
        settings: Settings | None = None,
        *,
        sample_index: int = 0,
        tree: Tree | None = None,
        name: str | None = None,
        **shortcuts: Unpack[Shortcuts],
    ) -> Run:
        """Return a run at step 0; nothing is sampled yet.

        Args:
            conditioning: what to color: a `Conditioning`, or just the picture (path, PIL image or array).
            settings: how to sample; the model's own by default.
            sample_index: which sample of the seed.
            tree: where the run is to live; a new one by default.
            name: in the tree.
            shortcuts: single fields of conditioning and settings: `gray=..., prompt="a red car", seed=3`.

        Raises:
            RangeError: the method lacks something it requires, or a value is not possible.
            ImageError: the picture cannot be used.

        Warns:
            ConditioningWarning: something that was given does not reach the model.
        """
        if conditioning is None:
            conditioning = Conditioning()
        elif not isinstance(conditioning, Conditioning):
            if "gray" in shortcuts:
                raise RangeError("Two pictures came, one by position and one as gray; give one of them.")
            conditioning = Conditioning(gray=conditioning)
        conditioning, settings = apply_shortcuts(conditioning, settings or self.settings, **shortcuts)
        return Run.start(self.method, conditioning, settings, sample_index=sample_index, tree=tree, name=name)

    def tune(
        self,
        conditioning: Any,
        settings: Settings | None = None,
        *,
        preset: "str | TuningPlan" = "notebook",
        nouns: Sequence[str] = (),
        **shortcuts: Unpack[Shortcuts],
    ) -> "Tuning":
        """Return a tuning of this model on one gray picture (DiffColor); nothing is computed yet.

        Args:
            conditioning: the gray picture, and as prompt the context: what it shows, without colors.
            settings: seed and parameters of mechanisms; the model's own by default.
            preset: "smoke", "notebook" or "paper", or a plan of one's own.
            nouns: which words of the context are objects; found by their articles by default.
            shortcuts: single fields of conditioning and settings: `prompt="a photo of a cat", seed=3`.

        Raises:
            RangeError: the method cannot be tuned so, or the context cannot be used.
            StateError: the model has no CLIP to compare with.
        """
        method = self._tunable()
        if not isinstance(conditioning, Conditioning):
            conditioning = Conditioning(gray=conditioning)
        conditioning, settings = apply_shortcuts(conditioning, settings or self.settings, **shortcuts)
        tuning: Tuning = _tuning("tuning").Tuning(method, conditioning, settings, preset, nouns=nouns)
        return tuning

    def resume_tuning(self, path: str | Path) -> "Tuning":
        """Return the tuning that a file holds, to go on with it as if it had never been left.

        Raises:
            RunFileError: the file is missing, damaged, or no tuning.
            RangeError: it is of another method or of other weights.
        """
        tuning: Tuning = _tuning("resuming").resume(self._tunable(), path)
        return tuning

    def with_adaptation(self, adaptation: Adaptation | str | Path) -> "Colorizer":
        """Return this model with what a tuning made of it; this one stays as it is.

        Args:
            adaptation: `tuning.adaptation`, or the path of the file that it was saved in.

        Raises:
            RangeError: the method takes no adaptation, it was tuned on other weights, or what came is none.
            WeightsError: it does not fit the network, or the file is missing or damaged.
        """
        method = self._tunable()
        if isinstance(adaptation, str | Path):
            adaptation = Adaptation.load(adaptation)
        if not isinstance(adaptation, Adaptation):
            raise RangeError(f"adaptation is {adaptation!r}, but tuning.adaptation or a path is expected.")
        return Colorizer(method.adapted(adaptation), settings=self.settings, card=self.card)

    def without_adaptation(self) -> "Colorizer":
        """Return the model as it was before it was tuned; this one where it carries nothing.

        Raises:
            RangeError: the method takes no adaptation.
        """
        plain = self._tunable().plain
        return self if plain is self.method else Colorizer(plain, settings=self.settings, card=self.card)

    def _tunable(self) -> Any:
        """Return the method.

        Raises:
            RangeError: it cannot be tuned on a picture.
        """
        if not hasattr(self.method, "adapted"):
            raise RangeError(
                f"{self.name} is a model of {self.method.name}, which is not tuned on single pictures; load "
                "'mini/diffcolor', or a model folder of the method 'diffcolor'."
            )
        return self.method

    def __repr__(self) -> str:
        return f"Colorizer {self.name!r}: {self.method.name}, {self.method.working_px} px, {self.device}, {self.dtype}"


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Colorizer:
    """Load a model by name.

    Args:
        name: in `colorlab.models()`, such as "mini/lcad"; or a model folder.
        weights: folder of converted weights, for models whose weights do not come with colorlab.
        device: where the networks go.
        dtype: their number format.

    Raises:
        UnknownModelError: there is no such model; the message lists those that exist.
        WeightsError: its weights are missing or damaged.
        RangeError: the device does not exist here, `dtype` is no floating format, or `name` is no text.
    """
    if not isinstance(name, str | Path):
        raise RangeError(f"The name of a model is {name!r}, but a text such as 'mini/lcad' is expected.")
    folder = find_model(str(name), weights)
    # A folder given as the name is known by its last part, as everywhere else.
    known_as = "" if folder == Path(name).expanduser() else str(name)
    method = method_of(str(name)) if weights is None else None
    return Colorizer.from_pretrained(folder, device=device, dtype=dtype, name=known_as, method=method)


def open(
    path: str | Path,
    colorizer: Colorizer | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    edits: Mapping[str, type] | None = None,
) -> Run:
    """Open a run file, or the folder of a journal, and return the run that was saved; `run.tree` holds all others.

    States, records, settings and conditionings come back bit for bit, and conditionings are encoded anew. The model is
    loaded by the name in the file. Where it is not here, its runs can be read all the same: states, records, settings,
    and queries that ask no network; whatever needs the model raises StateError and says which one. With other weights,
    another device or another dtype the runs work, and each replay says in its verdict how well it agrees.

    Args:
        path: what `Run.save` wrote, or the folder of `Run.autosave`.
        colorizer: the loaded model to use instead of loading one; needed for models that have no name in
            `colorlab.models()`.
        device: where the networks go; by default where they were, or the CPU if that device is not here.
        dtype: their number format; by default what it was, or float32 if the device is not here.
        edits: classes of edits of your own, by name, beside those of colorlab.

    Raises:
        RunFileError: the file is missing, no run file, damaged, of another version, or holds an unknown edit.
        RangeError: the colorizer is a model of another kind than the file, or makes other latents of the picture.

    Warns:
        RunFileWarning: the model is not here, or has other weights; the end of a journal could not be read.
    """
    path = Path(path).expanduser()
    archive, position = read_journal(path) if path.is_dir() else (read_archive(path), None)
    if set(archive.content) == {TUNING_TABLE}:
        raise RunFileError(f"{str(path)!r} holds a tuning, but no runs; go on with it by colorizer.resume_tuning(...).")
    models, adaptations = decode_models(archive), decode_adaptations(archive)
    misfits = {key: model.misfit(colorizer.method) if colorizer else "" for key, model in models.items()}
    if colorizer is not None and models and all(misfits.values()):
        raise RangeError(f"This model cannot be used for {str(path)!r}: {next(iter(misfits.values()))}.")
    methods = {
        key: _method_of(model, None if misfits[key] else colorizer, adaptations, device=device, dtype=dtype)
        for key, model in models.items()
    }
    run = decode_tree(archive, methods, edits)
    run.tree.opened_from = position
    return run


def _tuning(module: str) -> Any:
    """Import a module of tuning when it is needed: most users never tune."""
    return importlib.import_module(f"colorlab.tuning.{module}")


def _method_of(
    model: ModelDescription,
    colorizer: Colorizer | None,
    adaptations: Mapping[str, Adaptation],
    *,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> Method:
    """Return the given model, or load the one that is described; where that cannot be, something to stand for it."""
    if colorizer is not None and model.adaptation:
        colorizer = colorizer.with_adaptation(adaptations[model.adaptation])
    if colorizer is None:
        try:
            colorizer = load(model.name, **_placement(model, device, dtype))
            misfit = model.misfit(colorizer.method)
            if misfit:
                raise RangeError(f"{misfit}.")
            if model.adaptation:
                colorizer = colorizer.with_adaptation(adaptations[model.adaptation])
        except ColorlabError as error:
            absent = AbsentMethod(model, str(error))
            message = (
                f"The model {model.name!r} of this file is not here, so its runs can be read but not replayed or "
                f"continued: {error} Open the file with colorizer=... if you have the model elsewhere."
            )
            warnings.warn(message, RunFileWarning, stacklevel=users_stacklevel())
            return absent
    method = colorizer.method
    if model.weights and method.weights_hash and model.weights != method.weights_hash:
        warnings.warn(
            f"{method.model_name!r} has other weights ({method.weights_hash[:12]}) than this file was made with "
            f"({model.weights[:12]}): steps that are taken now, and pictures, are those of the new weights, and the "
            "verdict of a replay says how far they are off.",
            RunFileWarning,
            stacklevel=users_stacklevel(),
        )
    return method


def _placement(model: ModelDescription, device: str | torch.device | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """Choose device and dtype: those asked for, else those of the file where its device is here."""
    if device is None:
        try:
            device = _check_device(model.device)
        except RangeError:
            return {"device": "cpu", "dtype": dtype or torch.float32}
    recorded = getattr(torch, model.dtype, None)
    return {"device": device, "dtype": dtype or (recorded if isinstance(recorded, torch.dtype) else torch.float32)}


def _check_device(device: str | torch.device) -> torch.device:
    """Return the device, or raise when it is none or nothing can be put on it here."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RangeError(f"device is {device!r}, which cannot be used here ({reason}); use 'cpu'.") from error
    return found
