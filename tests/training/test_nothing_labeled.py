"""Training on nothing (case 17): refused before it starts; a batch or a validation without labeled px is no NaN."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import TRAIN_IDS
from pipeline.errors import UserError
from training.data import Batch
from training.networks import Segmenter
from training.state import StepState
from training.step import train_step
from training.train import train
from training.validation import draw_learning_curve, hold_out

CPU = Machine(device="cpu", tracker="tensorboard")


def _ignore(scenes: list[Scene], *, but: str | None = None) -> None:
    for scene in scenes:
        if scene.id != but:
            Image.fromarray(np.full((32, 64), 255, np.uint8)).save(scene.label)


@pytest.mark.parametrize("rare", [True, False])
def test_a_source_without_a_labeled_pixel_is_refused(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path, rare: bool
) -> None:
    _ignore(scenes)
    config = tiny_config.model_copy(update={"rare_classes": rare})
    with pytest.raises(UserError, match="none of the 8 label maps that would be trained on holds a pixel of a class"):
        train(config, Method(), 0, scenes, [], tmp_path / "run", machine=CPU)
    assert not (tmp_path / "run" / "segmenter").exists()


def test_only_the_scenes_that_are_trained_on_count(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    config = tiny_config.model_copy(update={"rare_classes": False})
    _ignore(scenes, but=hold_out(scenes, config.validation_scenes)[1][0].id)
    with pytest.raises(UserError, match="none of the 8 label maps"):
        train(config, Method(), 0, scenes, [], tmp_path / "run", machine=CPU)


def test_ids_that_map_everything_to_ignore_are_refused(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    """A wrong table from label values to train ids."""
    other = [Scene(s.id, s.image, s.label, dict.fromkeys(range(256), 255)) for s in scenes]
    with pytest.raises(UserError, match="correct 'labels' or 'ids'"):
        train(tiny_config, Method(), 0, other, [], tmp_path / "run", machine=CPU)
    assert scenes[0].ids == TRAIN_IDS


def test_a_generated_data_set_without_a_labeled_pixel_is_refused(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    import datasets

    empty = Image.fromarray(np.full((40, 48), 255, np.uint8))
    rows = [{"image": empty.convert("RGB"), "label": empty, "source": "x"}] * 3
    kinds = {"image": datasets.Image(), "label": datasets.Image(), "source": datasets.Value("string")}
    (tmp_path / "set" / "data").mkdir(parents=True)
    made = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
    made.to_parquet(tmp_path / "set" / "data" / "a.parquet")
    with pytest.raises(UserError, match="none of the 3 labels of .* holds a pixel of a class"):
        train(tiny_config, Method(generated=True), 0, scenes, [tmp_path / "set"], tmp_path / "run", machine=CPU)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_validation_without_labeled_pixels_is_null_in_the_log(
    tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path
) -> None:
    config = tiny_config.of(Method(training={"iterations": 3, "validation_every": 3, "checkpoint_every": 3}))
    held_out = hold_out(scenes, config.validation_scenes)[1]
    _ignore(held_out)
    train(config, Method(), 0, scenes, [], tmp_path / "run", machine=CPU)
    (line,) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["validation_miou"] is None
    draw_learning_curve(tmp_path / "run" / "log.jsonl", tmp_path / "curve.png")


@pytest.mark.parametrize(
    "method",
    [Method(), Method(gap=True, ube=True), Method(gap=True, ube=True, shade=True), Method(feature_distance=True)],
)
def test_the_loss_of_a_batch_without_labeled_pixels_is_zero(tiny_config: TrainingConfig, method: Method) -> None:
    """As `train_step` documents: it moves nothing but what the optimizer does by itself."""
    segmenter = Segmenter.create(tiny_config.network, 0)
    state = StepState.create(tiny_config, method, segmenter)
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8) + 9
    batch = Batch(image, torch.full((2, 32, 32), 255, dtype=torch.uint8), torch.tensor([[0.0, 1, 1, 0, 0]] * 2))
    terms = train_step(segmenter, batch, tiny_config, method, state, torch.Generator().manual_seed(0))
    terms.total.backward()
    assert terms.segmentation == terms.gap == terms.distance == 0 and (terms.per_image == 0).all()
    if not method.shade:  # its consistency needs no label
        assert terms.total == 0
        gradients = [weight.grad for weight in segmenter.parameters() if weight.grad is not None]
        assert all((gradient == 0).all() for gradient in gradients)
    assert state.bank.counts.sum() == 0 and state.bank.prototypes.isfinite().all()
