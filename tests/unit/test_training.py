"""The recipes: what they read, that they resume exactly, and that they export members that load."""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import colorlab
from colorlab.color import COLORS, lab_to_rgb
from colorlab.errors import ImageError, StateError
from colorlab.methods.base import ConditioningWarning
from colorlab.methods.text import WORDS_ARE_TOKENS
from colorlab.networks.libraries import AutoencoderKL
from colorlab.training import recipes
from colorlab.training.captions import (
    FADED_TEMPLATES,
    IDENTIFIERS,
    fade,
    faded_caption,
    measured_colors,
    photo_caption,
    vocabulary,
)
from colorlab.training.colorizediffusion import Strategies
from colorlab.training.corpus import GROUND_INDEX, SKY_INDEX, patch_map, scene_corpus
from colorlab.training.initialization import pass_through
from colorlab.training.loop import Plan, batch_generator, train
from colorlab.training.photos import crops, load_photographs, readable_label
from colorlab.training.scene_captions import with_article
from colorlab.training.scenes import TEST_SEEDS, make_scene
from colorlab.training.tokenizer import train_tokenizer

NUM_SCENES = 8


def flat_picture(color: str, side: int = 160) -> np.ndarray:
    """A picture of one named color at lightness 58."""
    lab = torch.tensor([58.0, *COLORS[color]]).view(1, 3, 1, 1).expand(1, 3, side, side)
    return (lab_to_rgb(lab)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve flat pictures in two shards, as the training photographs come."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for shard, names in (("train-0.tar", list(COLORS)[:6]), ("train-1.tar", list(COLORS)[6:])):
        with tarfile.open(folder / shard, "w") as archive:
            for color in names:
                name = f"train_{len(rows):05d}.jpg"
                file = io.BytesIO()
                Image.fromarray(flat_picture(color)).save(file, "JPEG", quality=95)
                info = tarfile.TarInfo(name)
                info.size = len(file.getvalue())
                file.seek(0)
                archive.addfile(info, file)
                rows.append({"name": name, "shard": shard, "label": "Motorbikes" if len(rows) % 2 else "tulips"})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["name", "shard", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_photographs_come_in_manifest_order_with_readable_labels(photo_folder: Path) -> None:
    photographs = load_photographs(photo_folder)
    assert photographs.images.shape == (12, 160, 160, 3)
    assert photographs.labels[:2] == ("tulip", "motorbike")
    assert measured_colors(photographs.images)[:8] == tuple(COLORS)[:8]


def test_decoded_photographs_are_cached_bit_for_bit(photo_folder: Path, tmp_path: Path) -> None:
    first = load_photographs(photo_folder, cache=tmp_path)
    second = load_photographs(photo_folder, cache=tmp_path)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(second.images, load_photographs(photo_folder).images)


def test_a_folder_without_manifest_or_split_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"manifest\.csv"):
        load_photographs(tmp_path)
    with pytest.raises(ImageError, match="split 'val'"):
        load_photographs(photo_folder, split="val")


def test_a_picture_that_no_shard_holds_is_told(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    with (folder / "manifest.csv").open("a") as file:
        file.write("train_00099.jpg,train-1.tar,tulips\n")
    with pytest.raises(ImageError, match=r"lack 1 of the 13 pictures .* train_00099\.jpg"):
        load_photographs(folder)


def test_a_manifest_without_a_column_is_told(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("name,shard\ntrain_00000.jpg,train-0.tar\n")
    with pytest.raises(ImageError, match=r"manifest\.csv lacks the column 'label'"):
        load_photographs(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "other size"])
def test_a_damaged_picture_in_a_shard_is_told(photo_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    file = io.BytesIO()
    Image.fromarray(flat_picture("red", side=80)).save(file, "JPEG")
    content = file.getvalue()[:200] if damage == "truncated" else file.getvalue()
    with tarfile.open(folder / "train-9.tar", "w") as archive:
        info = tarfile.TarInfo("train_00099.jpg")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    with (folder / "manifest.csv").open("a") as manifest:
        manifest.write("train_00099.jpg,train-9.tar,tulips\n")
    expected = "train_00099.jpg in .*train-9.tar " + (
        "cannot be read" if damage == "truncated" else "is 80 x 80, but 160"
    )
    with pytest.raises(ImageError, match=expected):
        load_photographs(folder)


def test_crops_are_parts_of_the_pictures() -> None:
    images = torch.arange(2 * 8 * 8 * 3, dtype=torch.uint8).view(2, 8, 8, 3)
    squares, mirrored = crops(images, 8, torch.Generator().manual_seed(0))
    for square, image, flipped in zip(squares, images, mirrored, strict=True):
        expected = image.flip(1) if flipped else image
        assert torch.equal((square * 255).round().to(torch.uint8), expected.permute(2, 0, 1))


@pytest.mark.parametrize(
    ("label", "words"), [("grand_piano", "grand piano"), ("Faces", "face"), ("t-shirt", "t-shirt")]
)
def test_labels_become_words(label: str, words: str) -> None:
    assert readable_label(label) == words


def test_articles() -> None:
    assert with_article("orange hat") == "an orange hat"
    assert with_article("red hat") == "a red hat"
    assert with_article("blue pants") == "blue pants"


def test_a_gray_photograph_is_never_called_colored() -> None:
    generator = torch.Generator().manual_seed(0)
    gray = [template.split("{}")[0] for template in FADED_TEMPLATES["gray"]]
    for _ in range(20):
        assert photo_caption("rose", "none", generator, name_color=True).startswith(tuple(gray))
        assert "red" in photo_caption("rose", "red", generator, name_color=True)
        assert "red" not in photo_caption("rose", "red", generator, name_color=False)
    assert faded_caption("a car on the road", "sepia", generator).endswith("a car on the road")


def test_fading_takes_chroma_away() -> None:
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    spread = {kind: float(fade(image, kind).std(1).mean()) for kind in FADED_TEMPLATES}
    assert spread["gray"] < 1e-6
    assert spread["gray"] < spread["washed"] < float(image.std(1).mean())


def test_every_known_word_is_one_token(tmp_path: Path) -> None:
    words = vocabulary(["grand piano", "tulip"])
    tokenizer = train_tokenizer(words, tmp_path)
    for word in [*COLORS, *IDENTIFIERS, "piano", "washed", "umbrella"]:
        assert len(tokenizer.tokenize(word)) == 1, word
    assert tokenizer.init_kwargs[WORDS_ARE_TOKENS]
    ids = tokenizer("a red car, nie gesehen 😀", padding="max_length")["input_ids"]
    assert len(ids) == 77
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "aredcar,niegesehen😀"


def test_patch_map_agrees_with_masks() -> None:
    scene = make_scene(TEST_SEEDS[3], num_instances=3)
    patches = patch_map(scene)
    for index, instance in enumerate(scene.instances):
        inside = np.kron(patches == index, np.ones((8, 8), bool))
        assert instance.mask[inside].mean() > 0.5
    assert (patches[0] == SKY_INDEX).any()
    assert (patches[-1] == GROUND_INDEX).any()


def test_the_corpus_is_read_back_as_it_was_drawn(tmp_path: Path) -> None:
    corpus = scene_corpus(NUM_SCENES, tmp_path)
    again = scene_corpus(NUM_SCENES, tmp_path)
    assert corpus.captions == again.captions
    assert corpus.things == again.things
    assert np.array_equal(corpus.images[3], make_scene(3).image)
    assert all(color in corpus.captions[3][0] for color, _ in corpus.things[3])


def test_pass_through_keeps_a_flat_picture_flat() -> None:
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    pass_through(vae)
    features = torch.rand(1, 8, 8, 8)
    block = vae.encoder.down_blocks[0]
    assert torch.equal(block.resnets[0](features, temb=None), features)
    pooled = nn.functional.avg_pool2d(features, 2)
    assert torch.allclose(block.downsamplers[0](features), pooled, atol=1e-6)


class Line:
    """A recipe as small as can be: fit a slope."""

    name = "line"

    def trainable(self) -> nn.Module:
        layer = nn.Linear(1, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def loss(
        self, module: nn.Module, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.rand(batch_size, 1, generator=generator)
        return (module(x) - 3 * x).square().mean(), {}

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        return Image.new("RGB", (1, 1))

    def export(self, folder: Path, module: nn.Module, card: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), folder / "line.pt")


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    plan = Plan(steps=30, batch_size=8, learning_rate=0.1, warmup=3, ema_decay=0.9)
    train(Line(), plan, tmp_path / "whole", tmp_path / "whole_member", device="cpu")
    train(Line(), plan, tmp_path / "halves", tmp_path / "halves_member", device="cpu", max_seconds=0.0)
    with pytest.raises(StateError, match="resume"):
        train(Line(), plan, tmp_path / "halves", tmp_path / "halves_member", device="cpu")
    train(Line(), plan, tmp_path / "halves", tmp_path / "halves_member", device="cpu", resume=True)
    whole, halves = (
        torch.load(tmp_path / f"{name}_member" / "line.pt", weights_only=True) for name in ("whole", "halves")
    )
    assert torch.equal(whole["weight"], halves["weight"])
    assert abs(float(whole["weight"]) - 3) < 1.5


def test_learning_rate_rises_holds_and_falls_to_zero() -> None:
    plan = Plan(steps=100, batch_size=1, learning_rate=1.0, warmup=10, cooldown=0.2)
    assert plan.rate(0) == pytest.approx(0.1)
    assert plan.rate(50) == 1.0
    assert plan.rate(90) == pytest.approx(0.5)
    assert plan.rate(100) == 0.0


def test_batches_are_a_function_of_seed_and_step() -> None:
    first, same, other = (torch.rand(3, generator=batch_generator(*key)) for key in ((0, 1), (0, 1), (0, 2)))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.timeout(900)
def test_every_recipe_makes_a_member_that_loads(photo_folder: Path, tmp_path: Path) -> None:
    """One step each, in the order of need: the same code that trains the shipped family."""
    for name in recipes.PLANS:
        member = recipes.run_recipe(name, data=photo_folder, out=tmp_path, steps=1, num_scenes=NUM_SCENES, device="cpu")
        assert any(member.rglob("*.safetensors")), name
        assert json.loads((member / "training.json").read_text())["recipe"] == name
    colorizer = colorlab.load(str(tmp_path / "family" / "lcad"))
    with pytest.warns(ConditioningWarning, match="'chartreuse'"):
        run = colorizer.start(gray=flat_picture("gray", 64), prompt="a chartreuse car", num_inference_steps=2)
    run.finish()
    assert run.image.shape == (64, 64, 3)
    check_that_grounding_counts_by_its_weight(photo_folder, tmp_path)


def check_that_grounding_counts_by_its_weight(photo_folder: Path, out: Path) -> None:
    losses = []
    for weight in (0.0, 2.0):
        strategies = Strategies(grounding_weight=weight)
        recipe = recipes.colorizediffusion_recipe(
            photo_folder, out, torch.device("cpu"), strategies=strategies, num_scenes=NUM_SCENES
        )
        loss, numbers = recipe.loss(recipe.trainable(), batch_generator(0, 0), 4)
        losses.append(float(loss))
        assert ("grounding" in numbers) == (weight > 0)
    assert losses[1] - losses[0] == pytest.approx(2 * numbers["grounding"], rel=1e-4)
    assert numbers["grounding"] > 0


def test_a_recipe_without_its_foundation_says_what_to_train(photo_folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "data" / "mini").mkdir(parents=True)
    for folder in ("data", "none"):
        monkeypatch.setenv("COLORLAB_DATA", str(tmp_path / folder))
        with pytest.raises(StateError, match="trained vae"):
            recipes.run_recipe("prior", data=photo_folder, out=tmp_path, num_scenes=NUM_SCENES)
