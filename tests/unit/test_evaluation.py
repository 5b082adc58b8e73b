"""The protocols: a perfect colorizer gets full marks, one that ignores the words gets none."""

import csv
import io
import tarfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_colorizer, tiny_components, tiny_picture

from colorlab.color import CHROMATIC_COLORS
from colorlab.conditioning import Conditioning
from colorlab.errors import ImageError, RangeError
from colorlab.evaluation import photographs, scenes
from colorlab.evaluation.autoencoder import evaluate_autoencoder, oracle
from colorlab.evaluation.batches import colorize_all
from colorlab.evaluation.report import Estimate, Report
from colorlab.settings import Settings
from colorlab.training.scenes import TRAIN_SEEDS, caption, recolored

NUM_SCENES = 6


def row(report: Report | Sequence[Estimate], name: str) -> Estimate:
    """The figure of this name."""
    rows = report.rows if isinstance(report, Report) else report
    return next(one for one in rows if one.name.strip() == name)


def gray_of(conditionings: Sequence[Conditioning], label: str) -> list[np.ndarray]:
    """Leave every picture gray."""
    return [np.repeat((c.gray * 255).round().astype(np.uint8)[..., None], 3, axis=2) for c in conditionings]


@pytest.fixture(scope="module")
def truth() -> Callable[[Sequence[Conditioning], str], list[np.ndarray]]:
    """A colorizer that has seen the held-out scenes and finds each by its caption."""
    known = {}
    for protocol in ("complete", "partial", "swap"):
        number = NUM_SCENES // 2 if protocol == "swap" else NUM_SCENES
        for scene in islice(scenes.held_out_scenes(protocol, 64), number):
            other = recolored(scene, [instance.color for instance in scene.instances[::-1]])
            for one in (scene, other):
                known.setdefault(caption(one, "partial" if protocol == "partial" else "complete", seed=0), one.image)

    return lambda conditionings, label: [known[conditioning.prompt] for conditioning in conditionings]


def test_a_perfect_colorizer_is_right(truth: Callable[..., list[np.ndarray]]) -> None:
    report = scenes.evaluate_scenes(truth, NUM_SCENES, size_px=64)
    assert row(report, "named color right, complete captions").value == 100.0
    assert row(report, "in the scenes themselves").value == 100.0
    assert row(report, "by chance: names of other instances").value < 60.0
    assert row(report, "named color right, partial captions").value == 100.0
    assert row(report, "chroma of unnamed instances / the data's").value == pytest.approx(1.0)
    assert row(report, "two color words swapped: both follow").value == 100.0
    assert row(report, "both right before and after").value == 100.0
    assert all(one.reached is not False for one in report.rows)


def test_gray_pictures_are_wrong() -> None:
    report = scenes.evaluate_scenes(gray_of, NUM_SCENES, size_px=64)
    assert row(report, "named color right, complete captions").value < 40.0
    assert row(report, "chroma of unnamed instances / the data's").value < 0.1
    assert row(report, "two color words swapped: both follow").value == 0.0
    assert row(report, "named color right, complete captions").reached is False


def test_ignoring_the_swap_is_wrong(truth: Callable[..., list[np.ndarray]]) -> None:
    before: list[np.ndarray] = []

    def stubborn(conditionings: Sequence[Conditioning], label: str) -> list[np.ndarray]:
        if label == "before the swap":
            before.extend(truth(conditionings, label))
        return before

    rows = scenes.swap_rows(stubborn, 3, 64)
    assert row(rows, "two color words swapped: both follow").value == 0.0


def test_reports_are_deterministic(truth: Callable[..., list[np.ndarray]]) -> None:
    first, second = (scenes.evaluate_scenes(truth, 3, size_px=64).to_json() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("protocol", ["complete", "partial", "swap"])
def test_scenes_are_held_out_and_as_promised(protocol: str) -> None:
    chosen = list(islice(scenes.held_out_scenes(protocol, 64), 8))
    assert len({scene.seed for scene in chosen}) == 8
    for scene in chosen:
        kinds = [instance.kind for instance in scene.instances]
        colors = {instance.color for instance in scene.instances}
        assert scene.seed not in TRAIN_SEEDS
        assert len(set(kinds)) == len(kinds)
        if protocol == "partial":
            assert len(kinds) > 1
        if protocol == "swap":
            assert len(kinds) == len(colors) == 2
            assert colors <= set(CHROMATIC_COLORS)


def test_the_gray_of_a_scene_has_its_lightness_and_none_of_its_color() -> None:
    scene = next(scenes.held_out_scenes("swap", 64))
    other = recolored(scene, [instance.color for instance in scene.instances[::-1]])
    seen: list[Conditioning] = []

    def watch(conditionings: Sequence[Conditioning], label: str) -> list[np.ndarray]:
        seen.extend(conditionings)
        return gray_of(conditionings, label)

    scenes.swap_rows(watch, 1, 64)
    before, after = seen
    np.testing.assert_array_equal(before.gray, after.gray)
    assert before.prompt == caption(scene, "complete", seed=0)
    assert after.prompt == caption(other, "complete", seed=0)


def test_no_scenes_are_refused() -> None:
    with pytest.raises(RangeError, match="at least 1"):
        scenes.evaluate_scenes(gray_of, 0)


def test_a_batch_gives_what_single_runs_give() -> None:
    colorizer = tiny_colorizer()
    settings = Settings(num_inference_steps=3, solver="dpmpp_2m", seed=5)
    pictures = [tiny_picture(32, 32), tiny_picture(40, 56), 255 - tiny_picture(32, 32), tiny_picture(48, 48)]
    wanted = [
        Conditioning(gray=picture, prompt=f"a {word} car") for picture, word in zip(pictures, "abcd", strict=True)
    ]
    images = colorize_all(colorizer.method, wanted, settings, batch_size=2)
    for index, (conditioning, image) in enumerate(zip(wanted, images, strict=True)):
        alone = colorizer.start(conditioning, settings.replace(seed=5 + index)).finish(progress=False).image
        assert image.shape == alone.shape
        assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1


def test_a_batch_with_its_own_noise_is_refused() -> None:
    with pytest.raises(RangeError, match="eta=0"):
        colorize_all(tiny_colorizer().method, [], Settings(eta=0.5))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with a manifest and one shard of three pictures, one of them for training."""
    with (
        (tmp_path / "manifest.csv").open("w", newline="") as file,
        tarfile.open(tmp_path / "val-0.tar", "w") as archive,
    ):
        writer = csv.DictWriter(file, fieldnames=["name", "shard", "label"])
        writer.writeheader()
        for name, level in [("val_0.png", 0), ("val_1.png", 120), ("train_0.png", 240)]:
            writer.writerow({"name": name, "shard": "val-0.tar", "label": "stop_sign"})
            buffer = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), (level, 100, 30), np.uint8)).save(buffer, format="PNG")
            member = tarfile.TarInfo(name)
            member.size = len(buffer.getvalue())
            buffer.seek(0)
            archive.addfile(member, buffer)
    return tmp_path


def test_folders_of_photographs(shards: Path, tmp_path: Path) -> None:
    found = photographs.load_folder(shards)
    assert [photo.name for photo in found] == ["val_0.png", "val_1.png"]
    assert found[1].label == "stop sign"
    torch.testing.assert_close(found[1].image[0, :, 0, 0], torch.tensor([120.0, 100.0, 30.0]) / 255.0)
    assert len(photographs.load_folder(shards, limit=1)) == 1
    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.raises(ImageError, match="holds no picture"):
        photographs.load_folder(plain)
    Image.fromarray(tiny_picture()).save(plain / "b.png")
    Image.fromarray(tiny_picture(20, 20)).save(plain / "a.JPG")
    assert [photo.image.shape[-2:] for photo in photographs.load_folder(plain)] == [(20, 20), (40, 56)]


def test_photographs_left_gray(shards: Path) -> None:
    report = photographs.evaluate_photographs(gray_of, photographs.load_folder(shards))
    assert row(report, "colorfulness / the truth's").value == pytest.approx(0.0, abs=1e-4)
    assert row(report, "colorfulness / the truth's").reached is False
    assert row(report, "lightness: largest error in the 8-bit file").value < 0.01
    to_truth = row(report, "ΔE 2000 to the truth").value
    assert to_truth == pytest.approx(row(report, "of the gray picture").value, abs=0.01)
    assert row(report, "mean chroma of the truth").value > 20.0


def test_prompts_of_photographs(shards: Path) -> None:
    seen: list[str] = []

    def watch(conditionings: Sequence[Conditioning], label: str) -> list[np.ndarray]:
        seen.extend(conditioning.prompt for conditioning in conditionings)
        return gray_of(conditionings, label)

    photos = photographs.load_folder(shards)
    photographs.evaluate_photographs(watch, photos)
    photographs.evaluate_photographs(watch, photos, uses_labels=True)
    assert seen == ["", "", "stop sign", "stop sign"]


def test_true_photographs_are_as_colorful_as_themselves(shards: Path) -> None:
    photos = photographs.load_folder(shards)
    images = [(photo.image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy() for photo in photos]
    report = photographs.evaluate_photographs(lambda *_: images, photos)
    assert row(report, "colorfulness / the truth's").value == pytest.approx(1.0)
    assert row(report, "PSNR to the truth").value == np.inf


def test_the_oracle_is_the_truth_where_chroma_is_constant() -> None:
    gray = torch.linspace(0.2, 0.8, 32 * 32).view(1, 1, 32, 32)
    torch.testing.assert_close(oracle(gray.expand(-1, 3, -1, -1), gray), gray.expand(-1, 3, -1, -1), atol=2e-3, rtol=0)


def test_autoencoder_rows_agree_with_each_other() -> None:
    images = [torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    report = evaluate_autoencoder(tiny_components(8), images, size_px=32, batch_size=2)
    values = {one.name: one.value for one in report.rows}
    assert all(one.num == 3 for one in report.rows)
    gain = values["raw with taps: PSNR"] - values["raw: PSNR"]
    assert values["taps gain, raw"] == pytest.approx(gain, abs=1e-5)
    # Whatever untrained networks decode: with the true lightness it is nearer to the truth.
    assert values["finished: PSNR"] > values["raw: PSNR"]
    assert values["oracle: PSNR"] > values["finished: PSNR"]
