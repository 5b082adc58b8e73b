"""Study: its cost is told before, it goes call by call, and whatever stops it leaves what is done and a usable run."""

import threading

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_lcad, tiny_picture

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.studies import Studies
from colorlab.inspection.study import Study, StudyCost, StudyWarning, estimate_cost
from colorlab.runs.batches import in_batches, predict_states, take_steps
from colorlab.runs.segments import take_step


@pytest.fixture
def run():
    return tiny_colorizer().start(tiny_picture(), prompt="a red car", eta=0.5)


def counting(run, *, fail_at=None, error=RuntimeError, meanwhile=lambda index: None):
    """Return a study of four calls, each second of which finishes a part."""

    def work():
        for index in range(4):
            meanwhile(index)
            if index == fail_at:
                raise error
            with run.method.lock:
                yield [index] if index % 2 else []

    def conclude(parts):
        return Exhibit(array=np.array(parts), axes=("part",), unit="", caption="Parts.", provenance={"query": "count"})

    return Study(run, "count", cost=StudyCost(4), num_parts=2, work=work, conclude=conclude)


def test_a_study_goes_call_by_call_and_may_be_left_in_between(run):
    study = counting(run)
    with pytest.raises(StateError, match="stands after 0 of 2 parts"):
        study.exhibit  # noqa: B018
    for finished in study:
        if finished:
            break
    assert (study.num_calls, study.parts) == (2, (1,))
    assert study.exhibit.provenance["is_complete"] is False
    exhibit = study.finish(progress=False)
    assert exhibit.array.tolist() == [1, 3]
    assert exhibit.caption == "Parts."
    assert exhibit.provenance | {"query": "count", "num_done": 2, "is_complete": True} == exhibit.provenance
    assert study.seconds > 0
    assert study.finish(progress=False) == study.exhibit


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_stops_a_study_leaves_what_is_done(run, error):
    study = counting(run, fail_at=2, error=error)
    if error is KeyboardInterrupt:
        with pytest.warns(StudyWarning, match="was stopped after 1 of 2 parts"):
            exhibit = study.finish(progress=False)
    else:
        with pytest.raises(RuntimeError):
            study.finish(progress=False)
        exhibit = study.exhibit
    assert exhibit.array.tolist() == [1]
    assert "after 1 of 2 parts" in exhibit.caption
    assert run.finish(progress=False).is_finished


def test_an_interrupt_before_anything_is_done_is_passed_on(run):
    with pytest.raises(KeyboardInterrupt):
        counting(run, fail_at=1, error=KeyboardInterrupt).finish(progress=False)


def test_cancel_from_another_thread_stops_after_the_present_call(run):
    study = counting(run, meanwhile=lambda index: cancel_in_a_thread() if index == 1 else None)

    def cancel_in_a_thread():
        thread = threading.Thread(target=study.cancel)
        thread.start()
        thread.join()

    with pytest.warns(StudyWarning, match="stopped after 1 of 2"):
        assert study.finish(progress=False).array.tolist() == [1]
    assert study.num_calls == 2
    nothing = counting(run)
    nothing.cancel()
    with pytest.raises(StateError, match="was stopped after 0 of 2 parts, so there is nothing to show"):
        nothing.finish(progress=False)


def test_a_run_cancels_its_studies(run):
    menu = Studies(run)
    study = counting(run, meanwhile=lambda index: menu.cancel() if index == 1 else None)
    with pytest.warns(StudyWarning):
        menu._answer(study, False)
    assert study.is_cancelled
    assert menu.running == ()
    assert menu.plan._answer(study, True) is study


def test_the_bar_tells_the_cost_before_the_first_call(run, capsys):
    counting(run).finish()
    said = capsys.readouterr().err
    assert "count (4 calls, duration not known yet)" in said
    assert "4/4" in said


def test_the_cost_is_estimated_from_what_the_run_measured(run):
    assert estimate_cost(run, calls=3) == StudyCost(3, 0, None)
    run.step()
    run.step()
    spent = run.cost["predict"]
    assert spent.num_times == 2
    assert estimate_cost(run, calls=3).seconds == pytest.approx(spent.seconds / 2 * 3)
    assert estimate_cost(run, calls=3, predictions=12).seconds == pytest.approx(spent.seconds / 2 * 12)
    run.preview(1)
    with_pictures = estimate_cost(run, calls=3, decodings=2).seconds
    assert with_pictures == pytest.approx(spent.seconds / 2 * 3 + run.cost["decode"].seconds * 2)
    # A branch that has not done anything goes by its parent.
    assert estimate_cost(run.branch(step=1, prompt="a blue boat"), calls=3) == estimate_cost(run, calls=3)
    assert str(StudyCost(3, 2, 0.2)) == "3 calls, 2 decodings, about 1 s"


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_steps_taken_together_are_the_steps_taken_alone(solver):
    method = tiny_lcad()
    eta = 0.5 if solver == "ddim" else 0.0
    runs = [
        tiny_colorizer(method).start(tiny_picture(), prompt="a red car", seed=seed, solver=solver, eta=eta)
        for seed in (3, 4, 5)
    ]
    segment, states = runs[0].segment_at(0), [run.state for run in runs]
    for _ in range(3):
        together = take_steps(method, segment, states, timesteps=runs[0].timesteps, seeds=[3, 4, 5])
        for run, (record, state) in zip(runs, together, strict=True):
            run.step()
            assert torch.allclose(state.latents, run.state.latents, atol=1e-4)
            assert torch.allclose(record.predictions["cond"], run.records[-1].predictions["cond"], atol=1e-4)
        states = [state for _, state in together]
    # One state is the batch that a run makes, so the bits agree.
    (record, state), alone = (
        take_steps(method, segment, [runs[0].state], timesteps=runs[0].timesteps)[0],
        take_step(method, segment, runs[0].state, timesteps=runs[0].timesteps),
    )
    assert state.equals(alone[1])
    assert torch.equal(record.noise_pred, alone[0].noise_pred)


def test_states_that_cannot_be_taken_together_say_so(run):
    run.step()
    with pytest.raises(ShapeError, match="0 states came"):
        predict_states(run.method, run.segment_at(0), [])
    with pytest.raises(ShapeError, match="2 states came"):
        predict_states(run.method, run.segment_at(0), run.states)
    assert list(in_batches("abcde", 2)) == [range(2), range(2, 4), range(4, 5)]
    with pytest.raises(RangeError, match="batch_size is 0"):
        list(in_batches("a", 0))
