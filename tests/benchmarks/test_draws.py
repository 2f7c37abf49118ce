"""A simulated training asks for the classes that the released rules ask for, and its crops show them as often."""

import numpy as np
import pytest

from benchmarks.draws import by_loops, class_shares, eighth, make_town, simulated, without_class
from training.draws import rare_classes, source_pairs


@pytest.mark.parametrize("preset", ["gta-dginstyle", "gta-hrda"])
@pytest.mark.parametrize(
    ("draws", "maps", "tolerance"),
    [pytest.param(800, 200, 0.09), pytest.param(40_000, 1500, 0.015, marks=pytest.mark.slow)],
)
def test_a_training_looks_at_what_the_released_one_looks_at(
    preset: str, draws: int, maps: int, tolerance: float
) -> None:
    """Issue 12: shares of the classes and of crops that lack theirs, with and without hardness, beside plain loops."""
    config = eighth(preset, draws, maps)
    town = make_town(maps, config)
    pairs = source_pairs(config, rare_classes(config, town.pixels))
    assert pairs is None or len({image for image, _ in pairs}) == len(pairs)
    for has in (False, True):
        loops, ours = by_loops(town, config, has=has, pairs=pairs), simulated(town, config, has=has)
        assert abs(len(loops) - len(ours)) < tolerance * draws
        np.testing.assert_allclose(class_shares(ours), class_shares(loops), atol=tolerance)
        assert class_shares(ours).sum() == pytest.approx(1)  # each draw asks for a class, also where hardness drew it
        assert without_class(ours) == pytest.approx(without_class(loops), abs=tolerance)
        assert 0 < without_class(ours) < 0.2


def test_hardness_over_all_images_would_be_another_method() -> None:
    """What version 0.1 did, and the default still does: later draws ask for no class at all."""
    config = eighth("gta-hrda", 800, 200)
    config = config.model_copy(update={"has": config.has.model_copy(update={"rare_classes": False})})
    assert class_shares(simulated(make_town(200, config), config, has=True)).sum() < 0.7
