"""What scoring is said to cost, against the calls that a prediction really makes."""

import numpy as np
import pytest
import torch

from evaluation.cost import scored_image
from evaluation.inference import input_size, make_predict
from pipeline.config.evaluation import EvaluationConfig
from pipeline.work.cost import Cost


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window": (32, 32)},
        {"window": (32, 48), "stride": (16, 20), "size": {"town": (64, 100)}},
        {"window": (256, 256), "flip": True},
        {"scales": (0.5, 1.0), "flip": True},
    ],
)
def test_every_px_that_the_network_sees_is_counted(changes: dict[str, object]) -> None:
    config, image, seen = EvaluationConfig.model_validate(changes), (96, 160), []

    def network(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.shape[0] * pixels.shape[2] * pixels.shape[3])
        return torch.zeros(len(pixels), 19, pixels.shape[2] // 4, pixels.shape[3] // 4)

    size = input_size(config, "town", image)
    make_predict(network, config, torch.device("cpu"), 3)(np.zeros((1, *image, 3), np.uint8), size)
    cost = scored_image(config, "town", image, 3, lambda count, size: Cost(count * size[0] * size[1], 7))
    assert cost.flops == sum(seen)
    assert cost.memory == 7 if config.window is None else cost.memory > 3 * 19 * 4 * 60 * 100
