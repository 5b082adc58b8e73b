"""The benchmarks of inspection, on small models: they compare like with like, and verdicts follow from numbers."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import tiny_colorizer, tiny_picture, tiny_tokenizer

from colorlab.evaluation.sketches import evaluate_sketches
from colorlab.networks.libraries import DDIMScheduler
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.settings import Settings

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def script(name):
    """Import a benchmark as Python does that runs it: what stands beside it can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def bench():
    return script("inspection")


@pytest.fixture(scope="module")
def start():
    colorizer = tiny_colorizer()
    return lambda: colorizer.start(tiny_picture(), prompt="a red car")


def test_every_row_is_measured(bench, start):
    watch = bench.Stopwatch()
    rows = [*bench.recording_rows("tiny", start, 2, watch)]
    rows += bench.query_rows("tiny", start().finish(progress=False), 2, watch)
    rows.append(bench.branch_row("tiny", start, 2, watch))
    assert len(rows) == 9
    assert all(len(row.values) == 2 and min(row.values) > 0 for row in rows)


def test_the_plain_loop_is_the_same_loop(bench, start):
    run = start()
    bench.check_same(run, DDIMScheduler.from_config(run.method.schedule.to_config()))
    with pytest.raises(SystemExit, match="off the run"):
        bench.check_same(run, DDIMScheduler.from_config(NoiseSchedule(beta_end=0.02).to_config()))


def test_a_run_keeps_a_thousandth_of_the_maps(bench):
    row = bench.memory_row(tiny_tokenizer(), 1)
    assert row.is_reached
    # 50 steps of two passes are the 136 GiB of the design.
    maps = bench.attention_map_bytes(bench.SD_UNET, 64, 77)
    assert round(maps * 100 / 2**30) == 136


def test_rows_are_printed_as_they_are_measured(bench, capsys, monkeypatch):
    def measured(table):
        yield bench.Row("first", [1.0], 1.03)
        assert "| first |" in capsys.readouterr().out
        yield bench.Row("second", [1.0], 1.03)

    monkeypatch.setattr(bench, "PARTS", {"recording": measured, "sd-size": measured})
    bench.main(["--cpu-time", "--threads", "1", "--only", "sd-size"])
    assert capsys.readouterr().out.startswith("| second |")
    with pytest.raises(SystemExit):
        bench.main(["--cpu-time", "--threads", "2"])
    assert "--cpu-time needs --threads 1" in capsys.readouterr().err


def test_the_bound_of_a_median_is_a_rank(bench):
    # 30 coins show at most 19 heads in 95.1 % of all cases, at most 18 in 90 %.
    assert bench.upper_bound(list(range(30, 0, -1))) == 20
    assert bench.upper_bound([1, 2, 3, 4, 5]) == 5
    assert bench.upper_bound([1, 2, 3, 4]) is None


def test_a_bound_above_the_target_misses_it(bench):
    assert bench.Row("", [1.0] * 30, 1.03).is_reached
    assert not bench.Row("", [1.0] * 18 + [2.0] * 12, 1.03).is_reached
    assert str(bench.Row("what", [20.0] * 5, 30, "ms")) == "| what | 20.0 ms | 20.0 ms | at most 30.0 ms | reached |"


def test_shares_of_provenance_are_projections_summed_over_each_place():
    bench = script("provenance")
    mask = np.zeros((40, 56), dtype=bool)
    mask[:20, :20] = True
    run = tiny_colorizer().start(tiny_picture(), prompt="a red car")
    with pytest.MonkeyPatch.context() as patch:
        # Tiny models move colors little.
        patch.setattr("colorlab.inspection.shares.LEAST_DIRECTION", 1e-3)
        found = bench.shares(bench.Case(run, bench.Removal(words=["car"]), 0, mask))
    study = bench.plan_provenance(run, bench.Removal(words=["car"]))
    study.finish(progress=False)
    without = {len(part.removed): part.ab.double() for part in study.parts if 0 in part.removed}
    final = bench.decode_chroma(run.method, run.segment_at(run.num_steps), run.state.latents).flatten(1).double()
    together = final - without[max(without)]
    for place, share in zip((mask.ravel(), ~mask.ravel()), found, strict=True):
        along = ((final - without[1]) * together)[:, place].sum()
        assert share == pytest.approx(float(along / together[:, place].square().sum()), abs=1e-4)
    rows = bench.rows_of("words", np.array([[0.8, 0.1], [0.5, 0.6], [np.nan, 0.2]]))
    assert [row.num for row in rows] == [2] * 4
    assert [row.value for row in rows] == pytest.approx([65, 35, 30, 50])
    for cases in bench.CASES.values():
        case = next(cases(start_anything(), 2))
        assert case.mask.any()
        assert not case.mask.all()


def start_anything():
    """Return what is asked to start runs and keeps nothing: the cases themselves are looked at."""
    return SimpleNamespace(start=lambda *args, **kwargs: None)


def test_the_gpu_command_works_without_a_gpu(capsys):
    script("gpu").main(["--device", "cpu", "--tiny", "--pairs", "1"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[2] == "| what | measured | asked | |"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert len(rows) == 12
    verdicts = {row[0]: row[1:] for row in rows}
    for dtype in ("float32", "bfloat16", "float16"):
        assert verdicts[f"replays, {dtype}"] == ["4 exact (0)", "none refused", "reached"]
        assert verdicts[f"edit that changes nothing, {dtype}"][0] == "0"


def test_the_gpu_command_tells_what_is_missing_and_what_fails(tmp_path):
    gpu = script("gpu")
    if not gpu.torch.cuda.is_available():
        with pytest.raises(SystemExit, match="There is no CUDA device"):
            gpu.main([])
    failing = tmp_path / "test_one.py"
    failing.write_text("def test_one():\n    assert False\n")
    row = gpu.tests_row([str(failing), "--rootdir", str(tmp_path)])
    assert "1 failed" in row.measured
    assert str(row).endswith("| all pass | missed |")


def test_strategies_are_compared_by_named_rows_and_three_alike_seeds_are_no_cure():
    bench = script("strategies")

    def paint_gray(conditionings, settings, label):
        return [np.full((128, 128, 3), 90, np.uint8) for _ in conditionings]

    report = evaluate_sketches(paint_gray, Settings(), 2, reads="local")
    assert set(bench.figures(report)) == {"leakage", "edges", "hue"}

    # The textbook's 97.5 % quantile of Student's t with two degrees of freedom is 4.303.
    low, high = bench.seed_interval(np.array([-3.0, -2.0, -1.0]))
    assert (low, high) == pytest.approx((-2 - 4.303 / 3**0.5, -2 + 4.303 / 3**0.5), abs=1e-3)

    def runs(*leakages, edges=(0.7, 0.75, 0.8)):
        return [{"leakage": leakage, "edges": f1, "hue": 50.0} for leakage, f1 in zip(leakages, edges, strict=False)]

    found = {
        "same": runs(5.0, 6.0, 7.0),
        "slightly": runs(4.9, 5.0, 6.9),
        "plainly": runs(2.0, 3.1, 3.9),
        "sharply": runs(5.0, 6.1, 6.9, edges=(0.8, 0.84, 0.91)),
        "both ways": runs(9.0, 10.1, 10.9, edges=(0.8, 0.84, 0.91)),
        "blurred": runs(5.0, 6.1, 6.9, edges=(0.6, 0.64, 0.71)),
    }
    verdicts = [line.split("|")[-2].strip() for line in bench.table(found).splitlines()[2:]]
    assert verdicts == ["", "no effect shown", "cures", "edges better", "harms, edges better", "edges worse"]
    lines = bench.table({name: some[:1] for name, some in found.items()}).splitlines()
    assert all("no effect shown" in line for line in lines[3:])
