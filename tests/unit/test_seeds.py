"""Seeds: each picture is that of a run with the seed, and the spread is that of brute force."""

import threading

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_picture

from colorlab.color import rgb_to_lab
from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.images import load_image
from colorlab.inspection.seeds import chroma_spread
from colorlab.inspection.study import StudyWarning

SIZE = (30, 44)


def start(**shortcuts):
    return tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car", seed=5, **shortcuts)


@pytest.mark.parametrize("shortcuts", [{}, {"eta": 0.6}, {"solver": "dpmpp_2m"}], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_picture_is_that_of_a_run_with_its_seed(shortcuts, batch_size):
    run = start(**shortcuts).finish(progress=False)
    study = run.study.plan.seeds(3, batch_size=batch_size)
    assert (study.cost.calls, study.cost.decodings) == (4 * (2 if batch_size == 1 else 1), 3)
    found = study.finish(progress=False)
    assert study.num_calls == study.cost.calls
    assert found.provenance["seeds"] == [5, 6, 7]
    for seed in (5, 6, 7):
        expected = tiny_colorizer().start(run.conditioning, run.settings.replace(seed=seed)).image
        apart = np.abs(found.pictures[f"seed {seed}"].astype(int) - expected)
        assert apart.max() <= (0 if seed == 5 or batch_size == 1 else 1)
    assert run.image is run.image
    assert np.array_equal(found.pictures["seed 5"], run.image)


def test_the_changes_of_a_run_are_followed():
    run = start().branch(step=0).finish(progress=False)
    run = run.branch(step=2, prompt="a blue boat", guidance_scale=2.0).finish(progress=False)
    found = run.study.seeds(2, progress=False)
    other = tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car", seed=6)
    other.step()
    other.step()
    other = other.branch(prompt="a blue boat", guidance_scale=2.0).finish(progress=False)
    assert np.array_equal(found.pictures["seed 6"], other.image)


def test_the_spread_is_the_standard_deviation_of_the_chroma():
    run = start().finish(progress=False)
    found = run.study.seeds(3, progress=False)
    ab = torch.cat([rgb_to_lab(load_image(picture))[:, 1:] for picture in found.pictures.values()]).double()
    assert np.abs(found.array - ab.var(dim=0).sum(dim=0).sqrt().numpy()).max() < 1e-3
    assert (found.array.shape, found.axes, found.kind) == (SIZE, ("H", "W"), "gallery")
    gray = np.full((4, 5, 3), 90, np.uint8)
    assert chroma_spread([gray, gray + 40]).max() < 1e-2
    assert np.isnan(chroma_spread([gray])).all()


def test_a_run_that_is_not_finished_is_not_touched():
    run = start()
    run.step()
    study = run.study.plan.seeds(2, batch_size=8)
    assert (study.cost.calls, study.cost.decodings) == (4, 2)
    found = study.finish(progress=False)
    assert run.step_index == 1
    assert np.abs(found.pictures["seed 5"].astype(int) - run.image).max() <= 1


def test_cancelled_from_another_thread_it_hands_over_what_is_done(monkeypatch, tmp_path):
    run = start().finish(progress=False)
    calls = iter(range(100))
    predict = run.method.predict

    def cancel_in_the_sixth_call(*args):
        if next(calls) == 5:
            thread = threading.Thread(target=run.study.cancel)
            thread.start()
            thread.join()
        return predict(*args)

    monkeypatch.setattr(run.method, "predict", cancel_in_the_sixth_call)
    with pytest.warns(StudyWarning, match="stopped after 2 of 5 parts"):
        found = run.study.seeds(5, batch_size=1, progress=False)
    assert list(found.pictures) == ["seed 5", "seed 6"]
    assert np.isfinite(found.array).all()
    assert next(calls) == 6
    assert run.study.running == ()
    assert Exhibit.load(found.save(tmp_path / "seeds.npz")) == found
    assert run.branch(step=2, prompt="a blue boat").image.shape == (*SIZE, 3)


def test_an_interrupt_in_a_call_hands_over_what_is_done_and_leaves_the_run_usable(monkeypatch):
    run = start().finish(progress=False)
    before = [state.latents.clone() for state in run.states]
    calls, predict = iter(range(100)), run.method.predict

    def interrupt(*args):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return predict(*args)

    monkeypatch.setattr(run.method, "predict", interrupt)
    with pytest.warns(StudyWarning, match="after 2 of 5"):
        run.study.seeds(5, batch_size=1, progress=False)
    assert all(torch.equal(a, state.latents) for a, state in zip(before, run.states, strict=True))
    assert not run.method.lock._is_owned()
    assert run.rewind(1).finish(progress=False).states[-1].latents.equal(before[-1])


def test_the_baseline_and_what_cannot_be_asked():
    run = start().finish(progress=False)
    found = run.study.seeds(3, baseline=True, progress=False)
    assert found.baseline.shape == SIZE
    assert np.isfinite(found.baseline).all()
    assert found._repr_png_().startswith(b"\x89PNG")
    for number in (1, 2.5, "3", True, None):
        with pytest.raises(RangeError, match=f"n is {number!r}, but a number of seeds"):
            run.study.seeds(number)
    for size in (0, 1.5, "4"):
        with pytest.raises(RangeError, match=f"batch_size is {size!r}, but an integer"):
            run.study.seeds(2, batch_size=size)
