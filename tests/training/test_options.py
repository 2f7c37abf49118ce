"""ImageNet feature distance and SHADE against plain NumPy, and what they do to a step."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.distance import jensenshannon
from torch import distributed

from pipeline.config.machine import Machine
from pipeline.config.training import Method, ShadeConfig, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from training.data import Batch
from training.feature_distance import feature_distances, first_call, thing_cells
from training.loop import Loop
from training.networks import Segmenter
from training.shade import StyleBank, farthest_points, restyled, style_divergence, style_of
from training.state import StepState
from training.step import train_step
from training.train import train

THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _batch() -> Batch:
    """Large blocks, so that things fill whole cells of stride 32."""
    labels = torch.tensor([[0, 13], [11, 8]], dtype=torch.uint8)
    labels = torch.stack([labels, labels.flip(0)]).repeat_interleave(32, 1).repeat_interleave(32, 2)
    labels[0, :5] = 255
    image = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Batch(image, labels, torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]] * 2))


def test_feature_distance_is_daformers() -> None:
    """The majority class of each cell by its one-hot's mean, kept from a share of 0.75 on (DAFormer, equation 9)."""
    random = np.random.default_rng(0)
    label = random.choice([6, 6, 6, 6, 6, 13, 13, 0, 255], (2, 64, 96)).astype(np.uint8)
    label[:, :32, :32], label[0, 32:, 32:64], label[1, :, 64:] = 13, 255, 7
    features, teacher = _random(2, 5, 2, 3), _random(2, 5, 2, 3, seed=1)
    cells = thing_cells(torch.tensor(label), (2, 3), THINGS, 0.75)
    wanted, found = [], np.zeros((2, 2, 3), bool)
    for image, row, column in np.ndindex(2, 2, 3):
        values, counts = np.unique(
            label[image, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32], return_counts=True
        )
        majority = values[counts.argmax()]
        if counts.max() / 1024 >= 0.75 and majority in THINGS:
            found[image, row, column] = True
            difference = (features - teacher)[image, :, row, column].numpy()
            wanted.append(np.sqrt((difference**2).sum()))
    np.testing.assert_array_equal(cells.numpy(), found)
    assert 0 < found.sum() < 12
    np.testing.assert_allclose(feature_distances(features, teacher, cells).numpy(), wanted, rtol=1e-6)


def test_style_is_replaced() -> None:
    features, styles = _random(3, 4, 6, 7), _random(3, 2, 4, seed=1).abs() + 0.5
    x = features.numpy()
    mean, deviation = x.mean((2, 3), keepdims=True), x.std((2, 3), ddof=1, keepdims=True)
    wanted = (x - mean) / deviation * styles.numpy()[:, 1, :, None, None] + styles.numpy()[:, 0, :, None, None]
    result = restyled(features, styles)
    np.testing.assert_allclose(result.numpy(), wanted, atol=1e-5)
    torch.testing.assert_close(style_of(result), styles, atol=1e-5, rtol=1e-5)


def test_divergence_is_scipys() -> None:
    first, second = (_random(2, 19, 3, 4, seed=seed).log_softmax(dim=1) for seed in (0, 1))
    wanted = jensenshannon(first.exp().numpy(), second.exp().numpy(), axis=1) ** 2
    np.testing.assert_allclose(style_divergence(first, second).numpy(), wanted, rtol=1e-4)
    assert style_divergence(first, first).abs().max() < 1e-6


def test_basis_styles_are_farthest_points() -> None:
    points = _random(40, 6)
    chosen, x = [7], points.numpy()
    for _ in range(5):
        nearest = np.min([((x - x[index]) ** 2).sum(1) for index in chosen], axis=0)
        chosen.append(int(nearest.argmax()))
    assert farthest_points(points, 6, 7).tolist() == chosen


def test_mixtures_lie_between_basis_styles_and_near_one_of_them() -> None:
    bank, random = StyleBank(6, ShadeConfig(basis=4, memory=8)), torch.Generator().manual_seed(0)
    assert int(bank.steps) == -1
    bank.collect(_random(3, 2, 6), random)
    assert int(bank.steps) == -1  # three styles are no basis of four
    bank.collect(_random(3, 2, 6, seed=1), random)
    assert int(bank.steps) == 0
    assert len(bank.basis.flatten(1).unique(dim=0)) == 4
    mixtures = bank.mixtures(500, random)
    low, high = bank.basis.amin(dim=0), bank.basis.amax(dim=0)
    assert ((mixtures >= low - 1e-5) & (mixtures <= high + 1e-5)).all()
    assert mixtures.mean(dim=0).sub(bank.basis.mean(dim=0)).abs().max() < 0.3
    nearest = torch.cdist(mixtures.flatten(1), bank.basis.flatten(1)).amin(dim=1)
    assert nearest.median() < 0.5 * torch.pdist(bank.basis.flatten(1)).min()  # concentration 1/4: one style dominates


def test_memory_keeps_the_last_styles() -> None:
    bank = StyleBank(2, ShadeConfig(basis=2, memory=4))
    styles = _random(7, 2, 2)
    for style in styles:
        bank.collect(style[None], torch.Generator().manual_seed(0))
    assert {tuple(row) for row in bank.memory.flatten(1).tolist()} == {
        tuple(row) for row in styles[3:].flatten(1).tolist()
    }


def _options(config: TrainingConfig) -> tuple[TrainingConfig, Method]:
    changes = {"shade": {"basis": 2}, "crop": [64, 64], "gap": {"max_pixels": 60}}
    return config.of(Method(training=changes)), Method(gap=True, ube=True, feature_distance=True, shade=True)


def test_a_step_adds_both_options(tiny_config: TrainingConfig) -> None:
    config, method = _options(tiny_config)
    segmenter = Segmenter.create(config.network, 0).eval()
    state = StepState.create(config, method, segmenter)
    assert state.teacher is not None and state.styles is not None
    terms = train_step(segmenter, _batch(), config, method, state, torch.Generator().manual_seed(0))
    assert terms.distance > 0
    assert terms.consistency > 0
    parts = terms.segmentation + 0.5 * terms.gap + 10 * terms.consistency + 0.005 * terms.distance
    assert terms.total.item() == pytest.approx(parts.item(), rel=1e-6)
    assert len(terms.per_image) == 2
    terms.total.backward()
    assert all(weight.grad is not None for weight in segmenter.parameters())
    assert all(weight.grad is None for weight in state.teacher.parameters())
    again = StepState.create(config, method, segmenter)
    again.load_state_dict(state.state_dict())
    assert again.styles is not None
    assert torch.equal(again.styles.basis, state.styles.basis)


def test_without_new_styles_features_start_at_no_distance(tiny_config: TrainingConfig) -> None:
    config, method = _options(tiny_config)[0], Method(feature_distance=True)
    segmenter = Segmenter.create(config.network, 0).eval()
    state = StepState.create(config, method, segmenter)
    steps = []
    for _ in range(2):
        terms = train_step(segmenter, _batch(), config, method, state, torch.Generator())
        steps.append(terms.distance.item())
        _disturb(segmenter)
    assert steps[0] == 0 < steps[1]


def _disturb(segmenter: Segmenter) -> None:
    """Moves the encoder off its start, and makes predictions far from uniform, so that no loss is near a pole."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in segmenter.encoder.parameters():
            weight.add_(torch.randn(weight.shape, generator=random), alpha=0.1)
        segmenter.classifier.weight *= 50


def test_hooks_are_gone_after_a_step(tiny_config: TrainingConfig) -> None:
    config, method = _options(tiny_config)
    segmenter, image = Segmenter.create(config.network, 0).eval(), _batch().image.float() / 255
    wanted = segmenter(image).logits
    state = StepState.create(config, method, segmenter)
    train_step(segmenter, _batch(), config, method, state, torch.Generator())
    assert torch.equal(segmenter(image).logits, wanted)
    with first_call(segmenter.encoder) as calls:
        segmenter(image)
        segmenter(image)
    assert len(calls) == 1
    assert calls[0].features.shape == (2, 16, 2, 2)


def test_a_run_with_every_option(tiny_config: TrainingConfig, scenes: list[Scene], tmp_path: Path) -> None:
    """Two runs, one of them interrupted in the middle, end in the same weights: the styles are in the checkpoint."""
    config = tiny_config.of(Method(training={"shade": {"basis": 2, "refresh": 3}, "scale": 2}))
    method = Method(gap=True, ube=True, has=True, feature_distance=True, shade=True)
    cpu = Machine(device="cpu")
    train(config, method, 0, scenes, [], tmp_path / "whole", machine=cpu)
    steps = iter(range(8))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        step = Loop.step

        def interrupted(loop: Loop, batch: Batch) -> None:
            step(loop, batch)
            if next(steps) == 7:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Loop, "step", interrupted)
        train(config, method, 0, scenes, [], tmp_path / "broken", machine=cpu)
    train(config, method, 0, scenes, [], tmp_path / "broken", machine=cpu)
    whole, broken = (load_file(tmp_path / run / "segmenter" / "model.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    with pytest.raises(UserError, match=r"machine\.compile hides"):
        train(config, method, 0, scenes, [], tmp_path / "d", machine=Machine(device="cpu", compile=True))


def _gradients(config: TrainingConfig, batch: Batch) -> list[torch.Tensor]:
    config, method = _options(config)
    segmenter = Segmenter.create(config.network, 0).eval()
    state = StepState.create(config, method, segmenter)
    _disturb(segmenter)
    terms = train_step(segmenter, batch, config, method, state, torch.Generator().manual_seed(0))
    terms.total.backward()
    weights = [weight.grad for weight in segmenter.parameters() if weight.grad is not None]
    return [*weights, torch.stack(terms[:5]).detach(), *state.state_dict()["PrototypeBank"].values()]


def _on_rank(rank: int, folder: str, config: TrainingConfig) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = Batch(*(values[rank : rank + 1] for values in _batch()))
    torch.save(_gradients(config, mine), f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_with_an_image_each_are_one_process_with_both(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_on_rank, args=(rank, str(tmp_path), tiny_config)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0, 0]
    both = zip(*(torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)), strict=True)
    for wanted, (first, second) in zip(_gradients(tiny_config, _batch()), both, strict=True):
        found = (first + second) / 2
        torch.testing.assert_close(found.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-6)
