"""Ablations: a mechanism that makes the picture right helps, one that does nothing is a null, and both are said."""

import json
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
from tiny import tiny_colorizediffusion, tiny_colorizer, tiny_ctrlcolor, tiny_lcad

from colorlab import cli
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.evaluation import exemplars, instances, local_edits, scenes, sketches, strokes, token_edits
from colorlab.evaluation.ablations import PURPOSES, evaluate_ablations
from colorlab.mechanisms.base import SWITCH, Mechanism
from colorlab.methods.colorizediffusion import ColorizeDiffusion
from colorlab.methods.ctrlcolor import CtrlColor
from colorlab.methods.lcad import Lcad
from colorlab.settings import Settings
from colorlab.training.scenes import exemplar_scene, recolored, sketch

SIZE_PX = 64
NUM_SCENES = 4
PICTURES = ("gray", "sketch", "exemplar", "manipulations")
MECHANISMS: dict[str, Mechanism] = {
    one.name: one for one in (*Lcad.mechanisms, *CtrlColor.mechanisms, *ColorizeDiffusion.mechanisms)
}


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    """What a perfect colorizer makes of each gray picture of the protocols."""
    words = islice(scenes.held_out_scenes("complete", SIZE_PX), NUM_SCENES)
    alike = islice(instances.same_kind_scenes(SIZE_PX), NUM_SCENES)
    painted = islice(strokes.stroked_scenes(SIZE_PX), NUM_SCENES)
    borrowed = islice(exemplars.exemplar_pairs(SIZE_PX), NUM_SCENES)
    edited = islice(local_edits.edited_scenes(SIZE_PX), NUM_SCENES)
    pairs = [(scenes.scene_conditioning(scene, "complete"), scene.image) for scene in words]
    pairs += [(instances.masked_conditioning(scene), scene.image) for scene in alike]
    pairs += [(one.conditioning, one.scene.image) for one in painted]
    pairs += [(exemplars.exemplar_conditioning(*pair), pair[0].image) for pair in borrowed]
    pairs += [(one.conditioning(has_mask=True), one.after.image) for one in edited]
    drawn = sketches.sketched_scenes(NUM_SCENES + 1, size_px=SIZE_PX)
    for scene, other in zip(drawn, [*drawn[1:], drawn[0]], strict=True):
        for exemplar in (exemplar_scene(scene, 0), other):
            pairs.append((Conditioning(sketch=sketch(scene), exemplar=exemplar.image), scene.image))
    for case in token_edits.edited_scenes(NUM_SCENES, 1, size_px=SIZE_PX):
        colors = [case.wanted.get(instance.kind, instance.color) for instance in case.scene.instances]
        image = recolored(case.scene, colors).image
        pairs.append((token_edits.edited_conditioning(case, is_edited=True), image))
    return {conditioning.content_hash(*PICTURES): image for conditioning, image in pairs}


def spoiled(image: np.ndarray) -> np.ndarray:
    """Turn every color into another one, and fill half of the picture with the first: wrong by every measure."""
    wrong = image[..., [1, 2, 0]].copy()
    wrong[::2] = image[..., [2, 0, 1]][::2]
    return wrong


# Those whose number is no distance to the truth have a test of their own.
OTHERS = ("overflow of strokes", "leakage of the exemplar's colors", "edge F1 against the sketch")


@pytest.mark.parametrize("name", [name for name in PURPOSES if PURPOSES[name].what not in OTHERS])
def test_a_mechanism_that_makes_the_picture_right_helps(name: str, truth: dict[str, np.ndarray]) -> None:
    seen = []

    def colorize(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
        seen.append(settings.mechanisms[name])
        images = [truth[one.content_hash(*PICTURES)] for one in conditionings]
        return images if settings.mechanisms[name][SWITCH] else [spoiled(image) for image in images]

    report = evaluate_ablations(colorize, [MECHANISMS[name]], Settings(), NUM_SCENES, size_px=SIZE_PX)
    change, on, off = report.rows
    assert change.name.startswith(f"{name}: ")
    assert change.value == pytest.approx(on.value - off.value)
    if PURPOSES[name].better == "higher":
        assert change.low > 0
    else:
        assert change.high < 0
    assert seen == [{**PURPOSES[name].on, SWITCH: True}, {SWITCH: False}]


@pytest.mark.parametrize("name", ["self_attention_guidance", "deformable_decoding"])
def test_a_mechanism_that_keeps_colors_inside_helps(name: str, truth: dict[str, np.ndarray]) -> None:
    def colorize(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
        if settings.mechanisms[name][SWITCH]:
            return [truth[one.content_hash(*PICTURES)] for one in conditionings]
        return [np.full((SIZE_PX, SIZE_PX, 3), one.strokes[0].color, np.uint8) for one in conditionings]

    report = evaluate_ablations(colorize, [MECHANISMS[name]], Settings(), NUM_SCENES, size_px=SIZE_PX)
    assert report.rows[0].value < 0
    assert report.rows[1].value == 0.0


def test_a_mechanism_that_keeps_the_exemplars_colors_out_helps(truth: dict[str, np.ndarray]) -> None:
    def colorize(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
        if settings.mechanisms["exemplar_attention"][SWITCH]:
            return [truth[one.content_hash(*PICTURES)] for one in conditionings]
        return [np.round(np.asarray(one.exemplar) * 255).astype(np.uint8) for one in conditionings]

    mechanisms = [MECHANISMS["exemplar_attention"]]
    report = evaluate_ablations(colorize, mechanisms, Settings(), NUM_SCENES, size_px=SIZE_PX)
    assert report.rows[0].value < 0
    assert report.rows[2].value > report.rows[1].value


def test_a_mechanism_that_draws_what_is_sketched_helps(truth: dict[str, np.ndarray]) -> None:
    def colorize(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
        if settings.mechanisms["sketch_injection"][SWITCH]:
            return [truth[one.content_hash(*PICTURES)] for one in conditionings]
        return [np.full((SIZE_PX, SIZE_PX, 3), 90, np.uint8) for _ in conditionings]

    mechanisms = [MECHANISMS["sketch_injection"]]
    change, on, off = evaluate_ablations(colorize, mechanisms, Settings(), NUM_SCENES, size_px=SIZE_PX).rows
    assert change.low > 0.2
    assert (on.value, off.value) == (pytest.approx(change.value), 0.0)


def test_a_mechanism_that_does_nothing_is_a_null(truth: dict[str, np.ndarray]) -> None:
    def colorize(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
        return [truth[one.content_hash(*PICTURES)] for one in conditionings]

    report = evaluate_ablations(colorize, list(MECHANISMS.values()), Settings(), NUM_SCENES, size_px=SIZE_PX)
    changes = report.rows[::3]
    assert len(changes) == len(MECHANISMS)
    assert all((one.value, one.low, one.high) == (0.0, 0.0, 0.0) for one in changes)


def test_every_mechanism_that_acts_on_a_picture_names_its_number() -> None:
    names = {one.name for one in (*Lcad.mechanisms, *CtrlColor.mechanisms, *ColorizeDiffusion.mechanisms)}
    assert names <= set(PURPOSES)
    for name in PURPOSES:
        if name in MECHANISMS:
            MECHANISMS[name].in_force(Settings().with_mechanism(name, **PURPOSES[name].on))


def test_a_mechanism_without_a_number_is_named() -> None:
    class Idle(type(Lcad.mechanisms[0])):  # type: ignore[misc]
        """Nothing."""

        name = "idle"

    report = evaluate_ablations(lambda *_: [], [Idle()], Settings(), 1)
    assert report.rows == ()
    assert "no number is named for idle" in report.title
    with pytest.raises(RangeError, match="at least 1"):
        evaluate_ablations(lambda *_: [], [], Settings(), 0)


@pytest.mark.parametrize("make", [tiny_lcad, tiny_ctrlcolor, tiny_colorizediffusion])
def test_the_command_measures_every_mechanism_of_a_model(make, tmp_path, capsys, monkeypatch) -> None:
    # The tiny text encoder spells, and reads too few letters to come to the phrases of a caption.
    monkeypatch.setattr(instances, "masked_conditioning", lambda scene: scenes.scene_conditioning(scene, "complete"))
    method = make()
    tiny_colorizer(method).save_pretrained(tmp_path / "tiny")
    assert cli.main(["ablate", str(tmp_path / "tiny"), "--scenes", "1", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert [one["name"].partition(":")[0] for one in report["rows"][::3]] == [one.name for one in method.mechanisms]
    assert all(np.isfinite(one["value"]) for one in report["rows"] if one["num"])
