"""The alignment score: high where the image follows the mask, low where the mask is moved away."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from generation.alignment import Alignment, alignment, canny, detector_commit, edge_detector, label_edges
from generation.card import draw_histogram
from pipeline.config.generation import AlignmentConfig
from pipeline.data.labels import CLASSES
from pipeline.errors import UserError


def blocks() -> np.ndarray:
    label = np.zeros((64, 128), np.uint8)
    label[:30] = 10
    label[20:50, 30:60] = 13
    label[10:40, 80:100] = 2
    return label


def paint(label: np.ndarray) -> np.ndarray:
    return np.array([c.color for c in CLASSES], np.uint8)[label]


def score(image: np.ndarray, label: np.ndarray, radius: int, **settings: object) -> Alignment:
    config = AlignmentConfig.model_validate(settings)
    return alignment(edge_detector(config)(image), label, radius)


def test_painted_mask_follows_itself_and_a_moved_mask_does_not() -> None:
    label = blocks()
    image = paint(label)
    assert score(image, label, 1).score > 0.95
    assert score(image, np.roll(label, (9, 13), (0, 1)), 1).score < 0.4


def test_the_control_tells_chance_from_alignment() -> None:
    label = blocks()
    own = score(paint(label), label, 1)
    assert own.control < 0.4 < own.score
    noise = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)  # edges everywhere
    chance = score(noise, label, 1)
    assert chance.score > 0.9 and abs(chance.score - chance.control) < 0.05


def test_flat_image_follows_nothing_and_flat_mask_has_nothing_to_follow() -> None:
    label = blocks()
    assert score(np.full((64, 128, 3), 90, np.uint8), label, 1) == (0.0, 0.0)
    assert score(paint(label), np.zeros_like(label), 1) == (1.0, 1.0)


def test_sizes_off_the_detectors_grid_are_scored_too() -> None:
    label = np.pad(blocks(), ((0, 21), (0, 9)), mode="edge")
    assert score(paint(label), label, 2).score > 0.9


def test_ignored_pixels_bound_nothing() -> None:
    label = np.array([[0, 255, 1, 1, 2]], np.uint8)
    np.testing.assert_array_equal(label_edges(label), [[False, False, False, True, False]])


@pytest.mark.parametrize("name", ["hed", "pidinet"])
def test_networks_find_edges_with_weights_from_a_folder(name: str, tmp_path: Path) -> None:
    from controlnet_aux.hed import ControlNetHED_Apache2
    from controlnet_aux.pidi.model import pidinet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "hed":
            torch.save(ControlNetHED_Apache2().state_dict(), tmp_path / "ControlNetHED.pth")
        else:
            states = {f"module.{key}": value for key, value in pidinet().state_dict().items()}
            torch.save({"state_dict": states}, tmp_path / "table5_pidinet.pth")
    label = blocks()
    scores = score(paint(label), label, 1, detector=name, weights=str(tmp_path))
    assert all(0 <= value <= 1 for value in scores)


@pytest.mark.parametrize("name", ["hed", "pidinet"])
def test_weights_of_a_detector_that_are_not_there(name: str, tmp_path: Path) -> None:
    for place, why in (("lllyasviel/Annotators", "set alignment.weights to DIR"), (str(tmp_path), "holds no ")):
        with pytest.raises(UserError, match=why) as caught:
            score(paint(blocks()), blocks(), 1, detector=name, weights=place)
        assert "\n" not in str(caught.value)
    (tmp_path / {"hed": "ControlNetHED.pth", "pidinet": "table5_pidinet.pth"}[name]).write_bytes(b"not weights")
    with pytest.raises(UserError, match=f"does not load as a {name} detector .*: fetch it again"):
        score(paint(blocks()), blocks(), 1, detector=name, weights=str(tmp_path))


def test_the_commit_of_published_detector_weights_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the Hub's cache: its layout, with the weights of one of both detectors."""
    repository = tmp_path / "models--lllyasviel--Annotators"
    snapshot = repository / "snapshots" / "1234abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "ControlNetHED.pth").touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1234abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert detector_commit(AlignmentConfig(detector="hed")) == "commit 1234abcd"
    assert detector_commit(AlignmentConfig(detector="pidinet")) is None


def test_the_histogram_is_the_same_file_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own, control = rng.beta(8, 3, 200), rng.beta(3, 8, 200)
    for name in ("a.png", "b.png"):
        draw_histogram(own, control, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 10


@pytest.mark.parametrize("size", [(64, 128), (50, 70), (96, 200), (33, 257), (130, 66)])
def test_canny_is_that_of_controlnet_aux(size: tuple[int, int]) -> None:
    """Bit for bit, enlarged and shrunk, on noise and on blocks."""
    from controlnet_aux import CannyDetector

    rng = np.random.default_rng(size[0])
    blocks = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3)).astype(np.uint8)
    for image in (
        rng.integers(0, 256, (*size, 3)).astype(np.uint8),
        np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]),
    ):
        for resolution in (64, 128):
            theirs = CannyDetector()(image, detect_resolution=resolution, image_resolution=resolution, output_type="np")
            ours = canny(image, resolution)
            assert ours.any() and np.array_equal(ours, theirs[..., 0])
