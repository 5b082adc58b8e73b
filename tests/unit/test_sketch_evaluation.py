"""The protocols of ColorizeDiffusion, on pictures of which the answer is known."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizediffusion

from colorlab.errors import RangeError
from colorlab.evaluation.batches import colorize_all
from colorlab.evaluation.sketches import edge_f1, evaluate_sketches, hues_agree, leakage, object_colors, share_followed
from colorlab.evaluation.token_edits import evaluate_token_edits
from colorlab.settings import Settings
from colorlab.training.edited_exemplars import color_edit
from colorlab.training.scenes import TEST_SEEDS, exemplar_scene, make_scene, recolored, sketch


def test_hues_and_grays():
    assert hues_agree((30.0, 0.0), (60.0, 15.0))
    assert not hues_agree((30.0, 0.0), (0.0, 30.0))
    assert hues_agree((-30.0, 1.0), (-30.0, -1.0))
    assert hues_agree((1.0, 1.0), (-3.0, 2.0))
    assert not hues_agree((1.0, 1.0), (40.0, 0.0))


def test_a_scene_follows_its_own_rearrangement():
    scene = make_scene(TEST_SEEDS[0])
    wanted = object_colors(exemplar_scene(scene, 0).image, exemplar_scene(scene, 0).instances)
    found = object_colors(scene.image, scene.instances)
    assert all(hues_agree(found[kind], wanted[kind]) for kind in found)
    assert share_followed(scene.image, scene, exemplar_scene(scene, 0)) == 1
    chromatic = make_scene(TEST_SEEDS[0], num_instances=1)
    red, blue = (recolored(chromatic, [color]) for color in ("red", "blue"))
    assert share_followed(red.image, chromatic, blue) == 0


def test_edges_of_the_sketch_itself_score_best():
    scene, other = make_scene(TEST_SEEDS[0]), make_scene(TEST_SEEDS[1])
    drawing = np.repeat((sketch(scene) * 255).astype(np.uint8)[..., None], 3, axis=2)
    scores = [edge_f1(image, sketch(scene)) for image in (drawing, scene.image, other.image)]
    assert scores[0] > 0.7
    assert scores[0] > scores[1] > scores[2]
    assert edge_f1(np.full((128, 128, 3), 90, np.uint8), sketch(scene)) == 0.0


def test_leakage_counts_an_exemplars_color_outside_alone():
    scene = make_scene(TEST_SEEDS[0], num_instances=1)
    red = recolored(scene, ["red"])
    assert list(leakage(red.image, scene, red)) == pytest.approx([0.0], abs=1.0)
    flooded = np.broadcast_to(np.median(red.image[red.instances[0].mask], axis=0), red.image.shape).astype(np.uint8)
    assert next(leakage(flooded, scene, red)) > 90


def test_the_reports_run_on_a_tiny_model_and_name_what_is_asked():
    method = tiny_colorizediffusion()

    def colorize(conditionings, settings, label):
        return colorize_all(method, conditionings, settings, label=label)

    settings = Settings(num_inference_steps=1, guidance_scale=2.0)
    report = evaluate_sketches(colorize, settings, 2, reads="local")
    assert [row.target for row in report.rows if row.target] == ["at least 85 %", "at least 0.8"]
    edits = evaluate_token_edits(colorize, method, settings, 2)
    assert sum(bool(row.target) for row in edits.rows) == 4
    assert torch.isfinite(torch.tensor([row.value for row in (*report.rows, *edits.rows)])).all()
    with pytest.raises(RangeError, match="expected at least 2"):
        evaluate_sketches(colorize, settings, 1, reads="local")
    with pytest.raises(RangeError, match="num_edits is 0; expected at least 1"):
        evaluate_token_edits(colorize, method, settings, 0)


def test_a_color_edit_names_what_it_changes():
    edit = color_edit("red", "car", "blue")
    assert (edit.target_text, edit.anchor_text, edit.control_text) == ("the blue car", "the red car", "the red car")
