"""A GPU whose memory is full while images are scored: fewer images or windows are seen at once, with one result."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from evaluation.inference import Network, PredictedLabels, make_predict
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.labels import NUM_CLASSES
from pipeline.errors import TryAgainError
from tests.memory import SmallCard

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 64, 3)).astype(np.uint8)


def network(image: torch.Tensor) -> torch.Tensor:
    levels = torch.linspace(0, 255, NUM_CLASSES).view(1, -1, 1, 1)
    return interpolate(-((image[:, :1] - levels) ** 2) / 500, scale_factor=0.25, mode="area")


def predicted(network: Network, config: EvaluationConfig) -> PredictedLabels:
    return make_predict(network, config, torch.device("cpu"), 4)(IMAGES, (32, 64))


@pytest.mark.parametrize("changes", [{}, {"flip": True}, {"window": (16, 32), "flip": True, "scales": (0.5, 1.0)}])
@pytest.mark.parametrize("fits", [1, 3])
def test_less_in_flight_predicts_the_same(changes: dict[str, object], fits: int) -> None:
    config, card = EvaluationConfig.model_validate(changes), SmallCard(fits)
    calm, tight = predicted(network, config), predicted(card.limit(network), config)
    assert torch.equal(torch.as_tensor(tight.labels), torch.as_tensor(calm.labels))
    assert torch.equal(torch.as_tensor(tight.confidence), torch.as_tensor(calm.confidence))
    assert card.refused == (2 if fits == 1 else 1) and max(card.held) <= fits


def test_fewer_images_are_there_where_the_network_is_not_what_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calm, card = predicted(network, EvaluationConfig()), SmallCard(2)
    tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda values, **options: tensor(card.hold(values), **options))
    assert torch.equal(torch.as_tensor(predicted(network, EvaluationConfig()).labels), torch.as_tensor(calm.labels))
    assert card.held == [2, 2] and card.refused == 1


def test_one_window_that_does_not_fit_ends_in_one_line() -> None:
    config = EvaluationConfig(window=(16, 32))
    with pytest.raises(
        TryAgainError, match=r"^one image alone does not fit .*GPU 0 .*: set evaluation.window, or small"
    ):
        predicted(SmallCard(0).limit(network), config)
