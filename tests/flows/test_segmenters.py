"""Which segmenter a name means, and that ours and transformers' are run alike."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from evaluation.inference import make_predict
from flows.run import Run
from flows.segmenters import find_model, load_network
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.experiment import ExperimentConfig
from pipeline.data.labels import CLASS_NAMES
from pipeline.errors import UserError
from pipeline.store.artifacts import Stage
from training.networks import Segmenter
from training.predict import predictor

Mini = Callable[..., ExperimentConfig]
CPU = torch.device("cpu")


@pytest.fixture
def ours(mini: Mini, tmp_path: Path) -> Path:
    """A segmenter with random weights, as training writes it."""
    segmenter = Segmenter.create(mini().training.network, 0).eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(segmenter.classifier.weight)  # so that classes differ from place to place
    segmenter.save_pretrained(tmp_path / "run" / "segmenter")
    return tmp_path / "run"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A tiny model in transformers' layout."""
    folder = tmp_path / "segformer"
    config = SegformerConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, id2label=dict(enumerate(CLASS_NAMES))
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_our_segmenters_predict_as_the_single_predictor_does(mini: Mini, ours: Path, scale: float) -> None:
    _, folder = find_model(Run(mini()).store, str(ours))
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 64, 3)).astype(np.uint8)
    size = (round(40 * scale), round(64 * scale))
    labels, _ = make_predict(load_network(folder, CPU), EvaluationConfig(), CPU, batch_size=2)(images, size)
    single = predictor(folder, scale, "cpu")
    expected = np.stack([single(image) for image in images])
    assert len(np.unique(expected)) > 1
    assert (np.asarray(labels) == expected).mean() > 0.999  # batches may round differently


def test_models_of_others(mini: Mini, theirs: Path) -> None:
    run = Run(mini(f"evaluation.models={{b0: {theirs}}}"))
    ((key, folder),) = run.other_models.values()
    assert folder == theirs and len(key) == 64
    assert load_network(folder, CPU)(torch.zeros(2, 3, 64, 64)).shape == (2, 19, 16, 16)
    with pytest.raises(UserError, match="is a method's name already"):
        _ = Run(mini(f"evaluation.models={{flex-seg: {theirs}}}")).other_models
    with pytest.raises(UserError, match="hf download"):
        _ = Run(mini("evaluation.models={b0: nobody/nowhere}")).other_models


def test_other_models_and_the_batch_do_not_change_the_key_of_an_evaluation(mini: Mini, theirs: Path) -> None:
    from flows.recipes import evaluation_recipe

    keys = {
        Run(config).key(evaluation_recipe(Run(config), "a"))
        for config in (mini(), mini(f"evaluation.models={{b0: {theirs}}}"), mini("machine.evaluation_batch=9"))
    }
    assert len(keys) == 1


def test_a_method_of_a_finished_run_is_a_model(mini: Mini, tmp_path: Path) -> None:
    store = Run(mini()).store
    seed = store.get_or_build(Stage("segmenter", 1), {}, {}, lambda folder: (folder / "segmenter").mkdir())
    report = store.get_or_build(
        Stage("report", 1), {}, {"all 0 segmenter": seed.key, "all 0 evaluation": "e"}, lambda folder: None
    )
    assert find_model(Run(mini()).store, f"{report.folder}:all") == (seed.key, seed.folder / "segmenter")
    with pytest.raises(UserError, match="has no method 'none'; it has all"):
        find_model(store, f"{report.folder}:none")
    with pytest.raises(UserError, match="no folder of a finished run"):
        find_model(store, f"{tmp_path / 'nowhere'}:all", "MODEL")
