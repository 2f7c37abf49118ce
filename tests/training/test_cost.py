"""What a training step is said to cost, against what torch counts while one is really done."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.training import Method, TrainingConfig
from pipeline.work.cost import flop_counter
from training.cost import prediction, segmenter_shape, training_step
from training.data import Batch
from training.networks import Segmenter
from training.state import StepState
from training.step import train_step

HRDA = {"hrda": {"detail_crop": (32, 32), "attention_channels": 8}}


@pytest.mark.parametrize(
    ("network", "changes"), [({}, {"shade": True}), (HRDA, {}), (HRDA, {"feature_distance": True})]
)
def test_a_step_costs_what_doing_it_costs(
    tiny_config: TrainingConfig, network: dict[str, object], changes: dict[str, bool]
) -> None:
    method = Method(**changes)
    config = TrainingConfig.model_validate(
        {**tiny_config.model_dump(), "crop": (64, 64), "network": {**tiny_config.network.model_dump(), **network}}
    )
    segmenter = Segmenter.create(config.network, 0).train()
    label = torch.randint(0, 19, (2, 64, 64), dtype=torch.uint8)
    batch = Batch(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), label, torch.zeros(2, 5))
    state = StepState.create(config, method, segmenter)
    with flop_counter() as real:
        terms = train_step(segmenter, batch, config, method, state, torch.Generator().manual_seed(0))
        terms.total.backward()
    assert training_step(config, method).flops == pytest.approx(real.get_total_flops(), rel=0.01)


def test_parts_and_processes_share_the_work(tiny_config: TrainingConfig) -> None:
    config = tiny_config.model_copy(update={"batch_size": 8})
    whole = training_step(config, Method())
    parts = training_step(config.model_copy(update={"accumulation": 4}), Method())
    ranks = training_step(config, Method(), processes=4)
    assert parts.flops == whole.flops == ranks.flops
    assert ranks.memory < parts.memory < whole.memory


@pytest.mark.slow
def test_bf16_keeps_half_of_what_float32_keeps(tiny_config: TrainingConfig) -> None:
    config = tiny_config.model_copy(update={"crop": (256, 256)})  # large, so that activations are most of it
    whole = training_step(config, Method())
    half = training_step(config.model_copy(update={"precision": "bf16"}), Method())
    assert half.flops == whole.flops
    assert 0.5 * whole.memory < half.memory < 0.6 * whole.memory


def test_a_published_encoder_is_not_fetched_for_its_size() -> None:
    segmenter = segmenter_shape(TrainingConfig().network)
    assert all(weight.is_meta for weight in segmenter.parameters())
    # the MiT-B5 of SegFormer's paper has 81.4 M weights (its table 1, encoder only)
    assert sum(weight.numel() for weight in segmenter.encoder.parameters()) == pytest.approx(81.4e6, rel=0.01)


def test_predictions_cost_by_the_image(tiny_config: TrainingConfig) -> None:
    segmenter = segmenter_shape(tiny_config.network)
    one, four = (prediction(segmenter, images, (64, 128)) for images in (1, 4))
    assert four.flops == 4 * one.flops and one.memory < four.memory < 4 * one.memory
    real = Segmenter.create(tiny_config.network, 0).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        real(torch.zeros(1, 3, 64, 128))
    assert one.flops == counter.get_total_flops()
