"""The figures of DiffColor, and the command that tunes; both go through every stage of a tiny model."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_colorizer, tiny_diffcolor, tiny_picture

import colorlab
from colorlab.cli import main
from colorlab.commands.problems import BadUsageError
from colorlab.commands.tuning_values import read_plan
from colorlab.errors import ImageError
from colorlab.evaluation.diffcolor import evaluate_diffcolor
from colorlab.evaluation.photographs import Photograph
from colorlab.methods.adaptation import Adaptation
from colorlab.tuning import PRESETS

CONTEXT = "a photo of a cat"


@pytest.fixture
def colorizer():
    return tiny_colorizer(tiny_diffcolor())


def test_a_photograph_is_tuned_on_and_measured(colorizer):
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    report = evaluate_diffcolor(colorizer, 0, [Photograph("a.png", "cat", image)], preset="smoke")
    assert report.details == {"scenes": 0, "photographs": 1}
    rows = {row.name: row for row in report.rows}
    assert set(rows) >= {"stage 1 raises the CLIP margin", "reconstruction, PSNR", "colorfulness / the truth's"}
    assert all(math.isfinite(row.value) and row.num == 1 for row in report.rows)
    assert rows["lightness: largest error in the 8-bit file"].reached
    assert "ΔE" not in report.to_table()


def test_plural_labels_are_tuned_on_too(colorizer, monkeypatch):
    # The tiny model knows no plural; a stand-in leaves the article out as plurals do.
    monkeypatch.setattr("colorlab.evaluation.diffcolor.with_article", lambda words: words)
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    report = evaluate_diffcolor(colorizer, 0, [Photograph("a.png", "cat", image)], preset="smoke")
    assert report.details["photographs"] == 1


@pytest.mark.parametrize(
    ("label", "message"),
    [("", "what b.png shows"), ("red cat", "names the color 'red'"), ("golden retriever", "the color 'golden'")],
)
def test_a_photograph_without_a_usable_label_is_told_before_anything_is_tuned(colorizer, monkeypatch, label, message):
    monkeypatch.setattr(type(colorizer), "tune", lambda *given, **named: pytest.fail("tuned"))
    images = torch.rand(2, 1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    photographs = [Photograph("a.png", "cat", images[0]), Photograph("b.png", label, images[1])]
    with pytest.raises(ImageError, match=message):
        evaluate_diffcolor(colorizer, 0, photographs, preset="smoke")


def test_scenes_are_edited_too(colorizer, monkeypatch):
    # The tiny model knows few words, so that no word of a scene is one token of it; stand-ins are.
    monkeypatch.setattr("colorlab.evaluation.diffcolor.with_article", lambda words: f"a {_known(words)}")
    report = evaluate_diffcolor(colorizer, 1, preset="smoke")
    rows = {row.name: row for row in report.rows}
    assert rows["edits: brown to blue"].num == 2
    assert rows["  ΔE 2000 of the rest, median"].value >= 0


def _known(words):
    """Return words of the tiny model: a color as it is, any kind of object as one of two."""
    *color, kind = words.split()
    return " ".join([*color, "cat" if len(kind) % 2 else "sofa"])


@pytest.fixture
def command(tmp_path, colorizer, monkeypatch):
    """The words of a command that tunes the tiny model, and where its result goes."""
    Image.fromarray(tiny_picture()).save(tmp_path / "cat.png")
    folder, out = colorizer.save_pretrained(tmp_path / "model"), tmp_path / "cat.safetensors"
    words = ["tune", str(tmp_path / "cat.png"), "-o", str(out), "-p", CONTEXT, "-m", str(folder), "--preset", "smoke"]
    return words, out


def test_the_command_tunes_and_colors_by_texts(command, capsys):
    words, out = command
    assert main([*words, "--target", "a photo of a blue cat"]) == 0
    printed = capsys.readouterr().out
    assert "checkpoints: at most" in printed
    assert Adaptation.load(out).context == CONTEXT
    assert np.asarray(Image.open(out.with_name("cat-1.png"))).shape == (*tiny_picture().shape, 3)
    assert not out.with_suffix(".tuning").exists()


def test_the_command_goes_on_after_an_interrupt(command, capsys, monkeypatch):
    words, out = command
    import colorlab.tuning.tuning as module

    real = module.check_reconstruction

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "check_reconstruction", interrupted)
    assert main(words) == 1
    assert "--resume goes on from it" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(module, "check_reconstruction", real)
    assert main(words) == 2
    assert "add --resume" in capsys.readouterr().err
    with monkeypatch.context() as again:
        again.setattr(module, "check_reconstruction", interrupted)
        assert main([*words, "--resume"]) == 1
    assert "otherwise" not in capsys.readouterr().out
    more = ["--seed", "7", "--noun", "photo", "--set", "reconstruction=9", "--set", "luma_weight=4"]
    assert main([*words, *more, "--resume"]) == 0
    told = "This command says the plan, the seed, mechanisms, nouns otherwise, which does not count"
    assert told in capsys.readouterr().out
    assert len(Adaptation.load(out).info["curves"]["embedding"]["loss"]) == PRESETS["smoke"].num_steps["embedding"]


def test_what_was_tuned_is_used_again_and_not_lost(command, capsys, tmp_path):
    words, out = command
    assert main([*words, "--resume"]) == 2
    assert "leave --resume out to begin" in capsys.readouterr().err
    assert main([*words, "--seed", "5"]) == 0
    first = out.read_bytes()
    for more in ([], ["--resume"]):
        assert main([*words, *more, "--target", "a photo of a blue cat"]) == 0
        assert "is a finished adaptation of this picture" in capsys.readouterr().out
        assert out.read_bytes() == first
        out.with_name("cat-1.png").unlink()
    assert main([*words, "-p", "a photo of a sofa"]) == 2
    assert "of another picture or context ('a photo of a cat')" in capsys.readouterr().err
    assert main([*words, "--force", "--resume"]) == 2
    assert main([*words, "--force", "--seed", "6"]) == 0
    assert out.read_bytes() != first

    later = tmp_path / "later.png"
    folder = words[words.index("-m") + 1]
    coloring = ["colorize", words[1], "-o", str(later), "-m", folder, "--adaptation", str(out), "-p"]
    capsys.readouterr()
    assert main([*coloring, "a photo of a blue cat"]) == 0
    assert "another picture" not in capsys.readouterr().err
    expected = colorlab.load(folder).with_adaptation(out).start(words[1], prompt="a photo of a blue cat")
    assert np.array_equal(np.asarray(Image.open(later)), expected.finish(progress=False).image)
    assert main([*coloring[:-2], str(tmp_path / "none.safetensors"), "-p", "a photo of a blue cat"]) == 2
    assert "There is no adaptation" in capsys.readouterr().err


def test_values_of_the_preset_and_nouns_can_be_given(command, capsys):
    words, out = command
    values = ["reconstruction=1", "luma_weight=4", "prior_strength=0.3", "backend=flow"]
    chosen = [word for value in values for word in ("--set", value)]
    words[words.index("-p") + 1] = "cat on sofa"
    assert main([*words, *chosen]) == 2
    assert "--noun cat" in capsys.readouterr().err
    assert main([*words, *chosen, "--noun", "sofa", "--target", "cat on blue sofa"]) == 0
    info = Adaptation.load(out).info
    assert info["plan"]["num_steps"]["reconstruction"] == 1
    assert info["plan"]["prior_strength"] == 0.3
    assert info["settings"]["mechanisms"]["contrastive_tuning"]["luma_weight"] == 4
    assert info["settings"]["mechanisms"]["spatial_alignment"]["backend"] == "flow"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("luma=4", "where NAME is one of contrastive, embedding, reconstruction"),
        ("luma_weight", 'luma_weight is ""; expected a number'),
        ("luma_weight=-1", "a number from 0 to 100 is expected"),
        ("embedding=many", "expected an integer"),
        ("backend=magic", "one of lab, guided, flow"),
        ("prior_strength=2", "a share above 0 and up to 1"),
    ],
)
def test_values_that_are_not_possible_say_what_is(value, message):
    with pytest.raises(BadUsageError, match=message):
        read_plan("smoke", [value])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "fast"], "expected one of smoke, notebook, paper"),
        (["-p", "a photo of a blue cat"], "already names the color"),
        (["--target", CONTEXT], "is the context itself"),
        (["-m", "mini/lcad"], "not tuned on single pictures"),
    ],
)
def test_wrong_words_end_before_anything_is_computed(command, capsys, more, message):
    words, out = command
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
