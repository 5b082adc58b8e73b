"""Where object points go in a clip: the object's own details travel with them."""

import numpy as np
import pytest

from colorlab.errors import ShapeError
from colorlab.evaluation.object_points import object_points
from colorlab.training.scenes import make_scene, moving_clip


def test_a_still_frame_maps_to_itself() -> None:
    scene = make_scene(3, size_px=64)
    points = object_points(scene, scene)
    np.testing.assert_array_equal(points.before, points.after)
    assert len(points) == 64 * 64


@pytest.mark.parametrize("seed", range(4))
def test_points_keep_their_color_and_their_object(seed: int) -> None:
    clip = moving_clip(seed, 4, size_px=96)
    points = object_points(clip[0], clip[-1])
    for index in range(len(clip[0].instances)):
        of_one = points.instance == index
        assert of_one.sum() > 0.5 * clip[-1].instances[index].mask.sum()
        assert clip[0].instances[index].mask[tuple(points.before[of_one].T)].all()
        assert clip[-1].instances[index].mask[tuple(points.after[of_one].T)].all()
        # Its details travel with it; shading stays with the light, and edges are anti-aliased.
        before = clip[0].lightness[tuple(points.before[of_one].T)]
        after = clip[-1].lightness[tuple(points.after[of_one].T)]
        assert np.median(np.abs(before - after)) < 4.0
        moved = np.abs(points.before[of_one] - points.after[of_one]).max()
        shift = clip[0].plan.things[index].x - clip[-1].plan.things[index].x
        assert moved >= abs(shift) * 96 - 1


def test_scenes_of_two_clips_are_refused() -> None:
    with pytest.raises(ShapeError, match="one clip"):
        object_points(make_scene(0, size_px=64, num_instances=1), make_scene(0, size_px=64, num_instances=2))
