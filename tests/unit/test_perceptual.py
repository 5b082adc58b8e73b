"""LPIPS is measured from files that lie here, and nothing is downloaded for it."""

import urllib.request

import pytest
import torch

from colorlab.images import load_image
from colorlab.networks import libraries
from colorlab.tuning import pictures
from colorlab.tuning.perceptual import load_lpips, lpips_between, why_no_lpips

FILE = "alexnet-owt-7be5be79.pth"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty place of torchvision's weights, and no way to fill it."""

    def refuse(*arguments, **keywords):
        raise AssertionError("something is downloaded")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def trunk(folder):
    """A file of AlexNet's convolutions, drawn at random."""
    pytest.importorskip("lpips", reason="the extra colorlab[eval] is not installed", exc_type=ImportError)
    sizes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for place, (out, into, side) in sizes.items():
        weights[f"features.{place}.weight"] = 0.05 * torch.randn(out, into, side, side, generator=generator)
        weights[f"features.{place}.bias"] = torch.zeros(out)
    torch.save(weights, folder / FILE)
    return weights


def test_without_the_weights_there_is_none_and_it_says_which(folder):
    assert load_lpips() is None
    assert FILE in why_no_lpips() or "colorlab[eval]" in why_no_lpips()


def test_with_them_it_is_the_network_of_the_file(trunk):
    assert why_no_lpips() == ""
    before = torch.random.get_rng_state()
    network = load_lpips()
    assert torch.equal(torch.random.get_rng_state(), before)
    parameters = dict(network.net.named_parameters())
    assert len(parameters) == len(trunk)
    assert torch.equal(parameters["slice1.0.weight"], trunk["features.0.weight"])
    assert torch.equal(parameters["slice5.10.weight"], trunk["features.10.weight"])
    picture = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert float(network(picture, picture)) == 0
    assert float(network(picture, picture.flip(-1))) > float(network(picture, picture + 0.01)) > 0


def test_the_gate_of_stage_2_asks_it(trunk, monkeypatch):
    from tiny import tiny_colorizer, tiny_diffcolor, tiny_picture

    monkeypatch.setattr(pictures, "LPIPS_LIMIT", -1.0)
    tuning = tiny_colorizer(tiny_diffcolor()).tune(tiny_picture(), prompt="a photo of a cat", preset="smoke")
    with pytest.warns(pictures.TuningWarning, match="has an LPIPS of"):
        tuning.finish(progress=False)
    last = tuning.state.rows[-1]
    assert last["lpips"] >= 0
    assert "lpips" in tuning.adaptation.info["curves"]["reconstruction"]


def sheet_of_tiny_pictures(whole, size=(40, 56), etas=(0.0, 0.6, 1.2)):
    from tiny import tiny_colorizer, tiny_diffcolor, tiny_picture

    from colorlab.conditioning import Conditioning
    from colorlab.tuning.exhibits import eta_sheet

    tuned = tiny_colorizer(tiny_diffcolor()).with_adaptation(whole.adaptation)
    conditioning = Conditioning(gray=tiny_picture(*size), prompt="a photo of a blue cat")
    return eta_sheet(tuned.method, conditioning, tuned.settings, etas=etas)


def test_the_eta_sheet_has_a_curve_of_it_where_the_weights_lie(trunk, whole):
    sheet = sheet_of_tiny_pictures(whole)
    curve = sheet.provenance["curves"]["LPIPS from the tuned picture"]
    network, images = load_lpips(), [load_image(picture) for picture in sheet.pictures.values()]
    tuned = load_image(whole.adaptation.tensors["picture/aligned"].numpy())
    assert curve == [pytest.approx(lpips_between(network, image, tuned)) for image in images]
    assert max(curve) > 0
    pairs = [lpips_between(network, images[i], images[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert sheet.provenance["diversity"] == pytest.approx(sum(pairs) / 3)
    assert f"{sheet.provenance['diversity']:.3f} between two of the pictures" in sheet.caption
    margins, distances = sheet.plot().axes[-2:]
    assert list(distances.lines[0].get_ydata()) == curve
    assert list(margins.lines[0].get_xdata()) == [0.0, 0.6, 1.2]
    # Another picture has no tuned one: then the first of the sheet is where distances begin.
    other = sheet_of_tiny_pictures(whole, size=(48, 56))
    assert other.provenance["curves"]["LPIPS from the first picture"][0] == 0


def test_the_eta_sheet_says_in_words_why_there_is_no_curve(folder, whole):
    sheet = sheet_of_tiny_pictures(whole, etas=(0.0,))
    assert "curves" not in sheet.provenance
    assert why_no_lpips() in sheet.caption
    assert sheet.plot() is not None


def test_pictures_that_are_too_small_are_said_to_be(trunk, whole):
    assert "the picture has 24 px, and AlexNet needs 32" in sheet_of_tiny_pictures(whole, (24, 56), (0.0,)).caption


def test_without_the_library_it_says_how_to_get_it(folder, monkeypatch):
    from colorlab.errors import MissingExtraError

    def missing(name):
        raise MissingExtraError("lpips is not installed; pip install colorlab[eval].")

    monkeypatch.setattr(libraries, "__getattr__", missing)
    monkeypatch.delattr(libraries, "LPIPS", raising=False)
    (folder / FILE).touch()
    assert "colorlab[eval]" in why_no_lpips()
    assert load_lpips() is None
