"""The settle map: known steps on a synthetic path, and on a run the decoder that it names."""

import pytest
import torch
from tiny import tiny_colorizer, tiny_picture, tiny_text_to_image

from colorlab.color import rgb_to_lab
from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.images import load_image
from colorlab.inspection.chroma import chroma_distance, decode_chroma, fit_linear_decoder
from colorlab.inspection.settling import settle_steps

SIZE = (30, 44)


@pytest.fixture(scope="module")
def run():
    return tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car").finish(progress=False)


def synthetic_path():
    """Return six chromas (6, 2, 2, 3) whose pixels settle at known steps."""
    path = torch.zeros(6, 2, 2, 3)
    path[:, :, 0, 0] = 7.0  # never moves: 0
    path[:3, 0, 0, 1] = 20.0  # far until step 2: 3
    path[:, 0, 0, 2] = torch.tensor([0.0, 9.0, 0.0, 0.0, 9.0, 0.0])  # near at first, but leaves twice: 5
    path[:, 0, 1, 0] = torch.tensor([30.0, 24.0, 18.0, 12.0, 6.0, 0.0])  # comes in steps of 6: 5
    path[:, 1, 1, 1] = torch.tensor([-25.0, -20.0, -15.0, -10.0, -5.0, 0.0])  # within 5, the limit included: 4
    path[:2, :, 1, 2] = torch.tensor([3.0, 4.0]) * 1.01  # 5.05 away in both directions together: 2
    return path


def test_a_synthetic_path_settles_at_its_known_steps():
    path = synthetic_path()
    assert settle_steps(path.flip(0), 6)[0].tolist() == [[0, 3, 5], [5, 4, 2]]
    assert settle_steps(path.flip(0), 6, tolerance=6.0)[0].tolist() == [[0, 3, 5], [4, 4, 0]]
    assert settle_steps(path.flip(0), 6, tolerance=100.0)[0].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert settle_steps(path[5:], 1)[0].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_it_looks_back_no_farther_than_anything_is_settled():
    path, asked = synthetic_path()[:, :, :, 2:], []

    def backwards():
        for step in range(5, -1, -1):
            asked.append(step)
            yield path[step] + torch.tensor([40.0, 0.0]).view(2, 1, 1) * (step == 3)

    assert settle_steps(backwards(), 6)[0].tolist() == [[5], [4]]
    assert asked == [5, 4, 3]


def test_the_path_of_another_pixel_may_never_come_near():
    path = torch.zeros(3, 2, 1, 2)
    path[:, 0, 0, 1] = 50.0
    found = settle_steps(path.flip(0), 3, shifts=[(0, 0), (0, 1)])
    assert found.tolist() == [[[0, 0]], [[3, 3]]]


@pytest.mark.parametrize("tolerance", [0.5, 5.0])
def test_the_map_of_a_run_is_that_of_its_decoded_predictions(run, tolerance):
    calls = run.method.network_calls["unet"]
    found = run.settled(tolerance=tolerance)
    assert run.method.network_calls["unet"] == calls
    clean = [record.pred_original_sample for record in run.records]
    ab = torch.stack([decode_chroma(run.method, run.segment_at(step), part) for step, part in enumerate(clean)])
    far = chroma_distance(ab, ab[-1:]) > tolerance
    expected = [[max((k + 1 for k in range(4) if far[k, y, x]), default=0) for x in range(44)] for y in range(30)]
    assert found.array.tolist() == expected
    # They are the previews, which are rounded to 8 bits: half a level in each channel is up to 1.5 in dark places.
    previews = torch.cat([rgb_to_lab(load_image(run.preview(step)))[:, 1:] for step in range(run.num_steps)])
    assert chroma_distance(ab, previews).mean() < 0.5
    assert (found.array.shape, found.axes, found.unit, found.verdict) == (SIZE, ("H", "W"), "step", None)
    assert found.provenance["decoder"] == "model"
    assert found.provenance["decoder_error"] == {"mean": 0.0, "percentile_95": 0.0}
    assert "Decoded by the model's decoder (error 0)" in found.caption


def test_the_linear_decoder_is_named_with_its_error(run):
    decodings = run.method.network_calls["vae"]
    found = run.settled(decoder="linear")
    # Four steps: 0, 2 and 3 are fitted to, 1 judges.
    assert run.method.network_calls["vae"] == decodings + 4
    error = found.provenance["decoder_error"]
    assert 0 < error["mean"] <= error["percentile_95"]
    assert f"off by {error['mean']:.1f} on average" in found.caption
    assert found.axes == ("h", "w")
    assert found.array.shape == tuple(run.state.latents.shape[-2:])


def test_a_decoder_that_is_linear_is_found_exactly():
    generator = torch.Generator().manual_seed(0)
    weights, latents = torch.randn(4, 2, generator=generator), torch.randn(3, 1, 4, 6, 7, generator=generator)
    chromas = torch.einsum("nzchw,cd->ndhw", latents, weights) + 3
    large = chromas.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
    decoder = fit_linear_decoder(list(latents), list(large), judged=[2])
    assert decoder.mean_error < 1e-4
    assert torch.allclose(decoder(None, latents[2]), chromas[2], atol=1e-3)
    flat = fit_linear_decoder([torch.zeros(1, 4, 6, 7)], [torch.full((2, 48, 56), 9.0)])
    assert torch.allclose(flat(None, torch.zeros(1, 4, 6, 7)), torch.full((2, 6, 7), 9.0), atol=1e-4)


def test_the_baseline_and_what_cannot_be_asked(run, tmp_path):
    found = run.settled(baseline=True)
    assert found.baseline.shape == found.array.shape
    assert 0 <= found.baseline.min() <= found.baseline.max() <= run.num_steps
    assert run.settled(baseline=True) == found == Exhibit.load(found.save(tmp_path / "settled.npz"))
    assert found._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(RangeError, match="tolerance is 0"):
        run.settled(tolerance=0)
    with pytest.raises(RangeError, match="decoder is 'fast'"):
        run.settled(decoder="fast")
    with pytest.raises(StateError, match="has taken no step"):
        tiny_colorizer().start(tiny_picture(*SIZE)).settled()


def test_a_run_under_way_is_measured_against_its_last_step_and_a_method_without_a_picture_works():
    run = tiny_colorizer(tiny_text_to_image()).start(prompt="a red car")
    run.step()
    assert (run.settled().array == 0).all()
    run.step()
    assert "of that at step 1" in run.settled().caption
    assert run.settled(decoder="linear").array.shape == tuple(run.state.latents.shape[-2:])
