"""attention_reduce: equal to the full matrix in float64, without ever having it."""

import math

import pytest
import torch
from meters import allocated_peak_bytes

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.inspection.attention import attention_reduce, cell_centers

GRID = (6, 10)
KEYS = 60


def draw(heads=3, num_queries=35, num_keys=KEYS, width=8, *, size=1.0):
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(heads, number, width, generator=generator) * size for number in (num_queries, num_keys))
    columns = torch.rand(num_keys, 4, generator=generator)
    columns[:, 0] = torch.eye(num_keys)[7]
    rows = torch.rand(2, num_queries, generator=generator)
    return q, k, columns, rows


def brute_force(q, k, columns, rows, grid):
    """Compute everything from the full matrix in float64, the slow way."""
    probs = (q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
    y, x = torch.meshgrid(cell_centers(grid[0]).double(), cell_centers(grid[1]).double(), indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], dim=-1)
    mean = probs @ places
    distance = (places[None, None] - mean[:, :, None]).square().sum(dim=-1)
    return {
        "columns": probs @ columns.double(),
        "rows": rows.double() @ probs,
        "mean_position": mean,
        "spread": (probs * distance).sum(dim=-1).sqrt(),
        "entropy": -(probs * probs.clamp_min(1e-300).log()).sum(dim=-1),
        "probs": probs,
    }


@pytest.mark.parametrize("size", [0.3, 1.0, 4.0], ids=["flat", "usual", "sharp"])
@pytest.mark.parametrize("max_bytes", [64 * 2**20, 100_000], ids=["at once", "in chunks"])
def test_everything_equals_brute_force(size, max_bytes):
    q, k, columns, rows = draw(size=size)
    expected = brute_force(q, k, columns, rows, GRID)
    found = attention_reduce(q, k, columns, max_bytes, rows=rows, grid=GRID, entropy=True, full_heads=(0, 1, 2))
    for name, value in expected.items():
        assert (getattr(found, name) - value).abs().max() <= 1e-5, name


def test_what_is_not_asked_for_is_not_there_and_order_of_full_heads_counts():
    q, k, columns, _ = draw()
    found = attention_reduce(q, k, columns)
    assert found.columns.shape == (3, 35, 4)
    with pytest.raises(StateError, match="entropy was not asked for"):
        found.get("entropy")
    assert (found.rows, found.probs, found.entropy, found.spread, found.mean_position) == (None,) * 5
    full = attention_reduce(q, k, full_heads=(2, 0)).probs
    assert torch.equal(full[0], attention_reduce(q, k, full_heads=(2,)).probs[0])
    assert torch.allclose(full.sum(dim=-1), torch.ones(2, 35), atol=1e-6)
    alone = attention_reduce(q, k, rows=torch.eye(35)[[4]]).rows
    assert torch.allclose(alone[2, 0], full[0, 4], atol=1e-6)


def test_limits_even_attention_and_a_single_key():
    q, k, columns, _ = draw()
    even = attention_reduce(torch.zeros_like(q), k, columns, grid=GRID, entropy=True)
    assert torch.allclose(even.columns, columns.mean(dim=0).expand(3, 35, 4), atol=1e-6)
    assert torch.allclose(even.entropy, torch.full((3, 35), math.log(KEYS)), atol=1e-5)
    assert even.mean_position.abs().max() < 1e-6
    one = attention_reduce(q, k[:, :1], torch.ones(1, 1), grid=(1, 1), entropy=True)
    assert torch.equal(one.columns, torch.ones(3, 35, 1))
    assert not one.entropy.any()
    assert not one.spread.any()


def test_a_sharp_query_has_its_place_and_no_spread():
    k = torch.eye(KEYS)[None] * 200
    q = torch.eye(KEYS)[None] * 50
    found = attention_reduce(q, k, grid=GRID, entropy=True)
    assert torch.allclose(found.mean_position[0, 13], torch.tensor([cell_centers(10)[3], cell_centers(6)[1]]))
    assert found.spread.max() < 1e-6
    assert found.entropy.abs().max() < 1e-6


def test_positions_lie_within_minus_one_and_one_symmetrically():
    centers = cell_centers(4)
    assert centers.tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_half_precision_is_reduced_in_float32():
    q, k, columns, rows = draw()
    q, k = q.half(), k.half()
    found = attention_reduce(q, k, columns, rows=rows)
    expected = brute_force(q, k, columns, rows, GRID)
    assert found.columns.dtype == torch.float32
    assert (found.columns - expected["columns"]).abs().max() <= 1e-5


def test_the_meter_sees_memory():
    assert 4_000_000 <= allocated_peak_bytes(lambda: torch.ones(1000, 1000).sum()) < 4_100_000
    assert allocated_peak_bytes(lambda: torch.ones(1000, 1000).exp() + 1) >= 8_000_000


@pytest.mark.parametrize("max_mib", [4, 16])
def test_peak_memory_stays_below_the_budget_at_4096_positions(max_mib):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 4096, 40, generator=generator) for _ in range(2))
    columns, rows = torch.rand(4096, 2, generator=generator), torch.eye(4096)[[5]]

    def query():
        return attention_reduce(q, k, columns, max_mib * 2**20, rows=rows, grid=(64, 64), entropy=True)

    peak = allocated_peak_bytes(query)
    assert peak <= max_mib * 2**20
    # The budget is also used: the chunks are not needlessly small.
    assert peak >= max_mib * 2**20 * 0.5
    assert 4096 * 4096 * 4 > 16 * 2**20


def test_a_budget_that_is_too_small_says_what_is_needed():
    q, k, columns, _ = draw()
    with pytest.raises(RangeError, match=r"max_bytes is 1000, but [0-9]+ are needed"):
        attention_reduce(q, k, columns, 1000)
    with pytest.raises(RangeError, match="are needed"):
        attention_reduce(q, k, max_bytes=3 * 35 * 60 * 4, full_heads=(0, 1, 2))


def test_what_does_not_fit_says_so():
    q, k, columns, rows = draw()
    with pytest.raises(ShapeError, match="k has shape"):
        attention_reduce(q, k[:2])
    with pytest.raises(ShapeError, match="columns has shape"):
        attention_reduce(q, k, columns[:5])
    with pytest.raises(ShapeError, match="rows has shape"):
        attention_reduce(q, k, rows=rows[:, :5])
    with pytest.raises(RangeError, match="grid is"):
        attention_reduce(q, k, grid=(6, 9))
    with pytest.raises(RangeError, match="full_heads holds 3"):
        attention_reduce(q, k, full_heads=(3,))
