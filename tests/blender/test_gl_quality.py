"""The pace of pictures on the graphics device, without one: a device is a speed here."""

import pytest

pytest.importorskip("bpy", reason="the add-on needs bpy")
from peel4d.addon.render.gl_quality import MOVING, STILL, Adaptation, ladder

pytestmark = pytest.mark.blender


def draw(adaptation: Adaptation, speed: float, moving: bool, layers: int = 12):
    quality = adaptation.choose(layers, moving)
    adaptation.record(quality.cost() / speed, moving)
    return quality


def test_ladder_gets_cheaper_step_by_step():
    for layers in (1, 4, 12, 64):
        costs = [quality.cost() for quality in ladder(layers)]
        assert costs == sorted(costs, reverse=True)
        assert ladder(layers)[0].layers == layers


@pytest.mark.parametrize("speed", [10.0, 100.0, 1e3, 1e5])
def test_a_moving_view_holds_its_time_and_does_not_swing(speed):
    adaptation = Adaptation()
    drawn = [draw(adaptation, speed, moving=True) for _ in range(20)]
    assert drawn[-1].cost() / speed <= 1.3 * MOVING
    assert drawn[-1] == drawn[-2] == drawn[-3]
    finer = ladder(12)[max(ladder(12).index(drawn[-1]) - 1, 0)]
    assert drawn[-1] == ladder(12)[0] or finer.cost() / speed >= 0.8 * MOVING


@pytest.mark.parametrize("speed", [20.0, 100.0, 1e5])
def test_a_still_view_is_refined_as_far_as_there_is_time(speed):
    adaptation = Adaptation()
    for _ in range(10):
        draw(adaptation, speed, moving=True)
    pictures = 0
    while not adaptation.finest(12):
        quality = draw(adaptation, speed, moving=False)
        pictures += 1
        assert quality.cost() / speed <= STILL
        assert pictures < 10
    affordable = [quality for quality in ladder(12) if quality.cost() / speed <= STILL]
    assert draw(adaptation, speed, moving=False) == affordable[0]


def test_a_still_picture_does_not_slow_the_next_move_down():
    adaptation = Adaptation()
    moving = [draw(adaptation, 100.0, moving=True) for _ in range(10)][-1]
    for _ in range(5):
        draw(adaptation, 100.0, moving=False)
    assert draw(adaptation, 100.0, moving=True) == moving


def test_a_refinement_that_is_given_up_says_nothing_about_the_next_move():
    adaptation = Adaptation()
    moving = [draw(adaptation, 60.0, moving=True) for _ in range(10)][-1]
    for _ in range(3):
        finer = adaptation.choose(12, moving=False)  # and never recorded
        assert finer.cost() > moving.cost()
        assert not adaptation.finest(12)
    assert draw(adaptation, 60.0, moving=True) == moving
