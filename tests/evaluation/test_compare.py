"""Two evaluations on disk: alignment of their scenes, most changed ones, what cannot be compared, the gate."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from evaluation.compare import compare, regressions
from evaluation.counts import PixelCounts, no_counts, read_image_counts, save_image_counts, stack
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.labels import NUM_CLASSES
from pipeline.errors import UserError
from tests.scored import write_evaluation

Right = Mapping[str, int]
"""Scene id -> how many of its 100 px of road and 100 px of sky are right."""


def counts(right: int) -> PixelCounts:
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    confusion[[0, 10], [0, 10]] = right
    confusion[[0, 10], [10, 0]] = 100 - right
    return no_counts(2)._replace(confusion=confusion)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes an evaluation's folder from domain -> scenes."""

    def evaluation(name: str, **domains: Right) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        images = {}
        for domain, scenes in domains.items():
            rows = [(scene, "fog" if scene < "5" else None, counts(right)) for scene, right in scenes.items()]
            images[domain] = stack(rows, 2)
        write_evaluation(folder, images, EvaluationConfig(band=5, curve=(1,)))
        return folder

    return evaluation


def scenes(first: int, count: int = 9) -> dict[str, int]:
    return {str(k): first + k for k in range(count)}


def test_images_come_back_as_they_were_written(write: Callable[..., Path]) -> None:
    images = read_image_counts(write("a", fog=scenes(60), none={}), "fog")
    assert images.ids.tolist() == [str(k) for k in range(9)] and images.conditions.tolist() == ["fog"] * 5 + [""] * 4
    assert images.confusion.dtype == np.int64 and images.confusion[3, 0, 0] == 63
    assert images.where("fog").ids.tolist() == ["0", "1", "2", "3", "4"]
    assert images.total().confusion[0, 0] == sum(range(60, 69))
    assert read_image_counts(write("b", none={}), "none").confusion.shape == (0, 19, 19)
    with pytest.raises(UserError, match="knows no domain 'rain'"):
        read_image_counts(write("c", fog=scenes(60)), "rain")


def test_only_common_domains_and_scenes_count_in_whatever_order(write: Callable[..., Path]) -> None:
    baseline = write("a", fog=scenes(60), rain=scenes(50), only_a=scenes(5))
    better = {scene: right + 20 for scene, right in reversed(scenes(60).items())} | {"new": 0}
    found = compare([baseline], [write("b", fog=better, rain=scenes(50), empty={})])
    assert list(found.domains) == ["fog", "rain"]
    assert found.domains["rain"][:4] == (0, 0, 0, 1)
    # 64% of the pixels right on average, then 84%; the IoU of two symmetric classes is right / (200 - right).
    assert found.domains["fog"].difference == pytest.approx(0.84 / 1.16 - 0.64 / 1.36)
    assert found.domains["fog"].significant and found.domains["fog"].p < 0.01
    assert found.mean.difference == pytest.approx(found.domains["fog"].difference / 2)
    assert len(found.changes["fog"]) == 9 and "new" not in {change.id for change in found.changes["fog"]}


def test_the_most_changed_scenes_come_first(write: Callable[..., Path]) -> None:
    before, after = write("a", fog={"a": 50, "b": 50, "c": 50}), write("b", fog={"a": 60, "b": 10, "c": 50})
    changes = compare([before], [after]).changes["fog"]
    assert [(c.id, c.before, c.after) for c in changes] == [("b", 0.5, 0.1), ("a", 0.5, 0.6), ("c", 0.5, 0.5)]
    assert changes[0].gain == pytest.approx(-0.4)


def test_seeds_are_averaged(write: Callable[..., Path]) -> None:
    seeds = [write(f"seed{k}", fog=scenes(50 + 10 * k)) for k in range(3)]
    found = compare(seeds, [write("other", fog=scenes(60))])
    assert found.changes["fog"][0].before == pytest.approx(0.6) and found.changes["fog"][0].gain == pytest.approx(0)
    shares = [0.01 * (54 + 10 * k) for k in range(3)]  # of the pixels that are right
    mious = [right / (2 - right) for right in shares]  # two symmetric classes
    assert found.domains["fog"].difference == pytest.approx(mious[1] - np.mean(mious))


def test_what_cannot_be_compared(write: Callable[..., Path], tmp_path: Path) -> None:
    fog = write("a", fog=scenes(60))
    with pytest.raises(UserError, match="no domain in common"):
        compare([fog], [write("b", rain=scenes(60))])
    with pytest.raises(UserError, match="no scene of 'fog' in common"):
        compare([fog], [write("c", fog={"other": 3})])
    with pytest.raises(UserError, match=r"holds no evaluation\.json"):
        compare([fog], [tmp_path / "nowhere"])
    relabeled = write("d", fog=scenes(60))
    images = read_image_counts(relabeled, "fog")
    images.confusion[4, 0, 0] += 1
    save_image_counts(images, relabeled, "fog")
    with pytest.raises(UserError, match="different label maps, for instance of scene 4"):
        compare([fog], [relabeled])


def test_the_gate_wants_a_drop_that_is_large_and_significant(write: Callable[..., Path]) -> None:
    baseline = write("a", fog=scenes(60), rain=scenes(60))
    worse = compare([baseline], [write("b", fog=scenes(50), rain=scenes(60))])
    fog, mean = regressions(worse, max_drop=0.5)
    assert fog.startswith("fog: mIoU fell by") and "p = " in fog and mean.startswith("mean over domains: ")
    assert regressions(worse, max_drop=50) == []
    noisy = {scene: right + (22 if int(scene) % 2 else -25) for scene, right in scenes(60).items()}
    by_chance = compare([baseline], [write("c", fog=noisy, rain=scenes(60))])
    assert by_chance.domains["fog"].difference < -0.005 and regressions(by_chance, max_drop=0.5) == []
    assert regressions(compare([write("e", fog=scenes(50))], [baseline]), max_drop=0) == []  # better is no regression
