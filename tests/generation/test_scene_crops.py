"""Training crops of a labeled data set: rare classes, and image and label cut alike."""

import numpy as np
import pytest
from PIL import Image

from generation.weights.scenes import Crops, check_scenes, crop_corner
from pipeline.config.weights import FineTuning, WeightsConfig
from pipeline.data.datasets import Scene
from pipeline.data.statistics import class_pixels
from pipeline.errors import UserError
from tests.published import write_gta

RARE = FineTuning(steps=1, learning_rate=1.0, rare_share=1.0)
EVEN = FineTuning(steps=1, learning_rate=1.0, rare_share=0.0, height=32)
CONFIG = WeightsConfig(prior_from="given", crop=(16, 16), source=EVEN, controlnet=RARE)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    return write_gta(tmp_path_factory.mktemp("gta"))


def test_rare_crops_show_the_rare_class(scenes: list[Scene]) -> None:
    pixels = class_pixels(scenes)
    rare = Crops(CONFIG, RARE, "controlnet", scenes, pixels)
    labels = [rare[0, row][1] for row in range(40)]
    assert all((label == 12).any() for label in labels)  # the two large classes have next to no chance at T = 0.01
    even = Crops(CONFIG, EVEN, "source", scenes, pixels)
    image, label = even[0, 0]
    assert image.shape == (16, 16, 3) and label.shape == (16, 16)
    assert image.dtype == label.dtype == np.uint8
    assert 0 < np.mean([(even[0, row][1] == 12).any() for row in range(60)]) < 0.3
    again = Crops(CONFIG, RARE, "controlnet", scenes, pixels)[0, 7]
    np.testing.assert_array_equal(again[0], rare[0, 7][0])


def test_image_and_label_are_cut_alike(scenes: list[Scene]) -> None:
    for key in ((0, 0), (3, 1), (5, 0)):
        image, label = Crops(CONFIG, RARE, "controlnet", scenes, class_pixels(scenes))[key]
        sky = image.mean(-1) > 130
        assert (sky == (label == 10)).mean() > 0.95


def test_crops_are_centered_on_the_class_as_far_as_they_fit() -> None:
    label = np.zeros((40, 60), np.uint8)
    label[20, 30] = 5
    rng = np.random.default_rng(0)
    assert crop_corner(label, (16, 16), 5, rng) == (12, 22)
    label[20, 30], label[0, 59] = 0, 5
    assert crop_corner(label, (16, 16), 5, rng) == (0, 44)
    places = {crop_corner(label, (39, 59), None, rng) for _ in range(60)}
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert crop_corner(label, (40, 60), 18, rng) == (0, 0)  # a class that resizing has lost


def test_each_image_is_scaled_by_one_of_the_factors(scenes: list[Scene]) -> None:
    """Crops of images that say how large they were: columns of 8 px, alternately dark and bright."""
    stripes = (np.arange(64) // 8 % 2 * 200).astype(np.uint8)
    for scene in scenes:
        assert scene.image is not None
        Image.fromarray(np.broadcast_to(stripes[None, :, None], (40, 64, 3)).copy()).save(scene.image)
    tuning = FineTuning(steps=1, learning_rate=1.0, rare_share=0.0, scales=(0.5, 1.0, 2.0))
    crops = Crops(CONFIG, tuning, "source", scenes, class_pixels(scenes))
    widths = []
    for row in range(150):
        image, label = crops[0, row]
        assert image.shape == (16, 16, 3) and label.shape == (16, 16)
        edges = np.flatnonzero(np.diff((image[8, :, 0] > 100).astype(int)))
        widths.append(16 if len(edges) < 2 else int(np.diff(edges).min()))
    counts = [widths.count(width) for width in (4, 8, 16)]
    # of 8 px wide stripes a crop of 16 px shows two edges wherever it lies, but for one place in eight
    assert sum(counts) == 150 and all(30 <= count <= 75 for count in counts), counts
    with pytest.raises(UserError, match=r"is 32x20 px for weights\.source, smaller than weights\.crop of 24x24 px"):
        check_scenes(
            CONFIG.model_copy(update={"crop": (24, 24), "source": tuning}), scenes, class_pixels(scenes), multiple=8
        )
