"""In which number format a network computes when it is scored, and that this is said."""

import numpy as np
import torch

from evaluation.inference import input_text, make_predict
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.precision import Precision
from pipeline.data.labels import NUM_CLASSES

CPU = torch.device("cpu")


def test_bf16_computes_in_bfloat16_and_gives_float32_logits() -> None:
    seen: list[torch.dtype] = []
    layer = torch.nn.Conv2d(3, NUM_CLASSES, 3, padding=1)

    def network(image: torch.Tensor) -> torch.Tensor:
        logits = torch.as_tensor(layer(image / 255))
        seen.append(logits.dtype)
        return logits

    images = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3)).astype(np.uint8)
    exact = make_predict(network, EvaluationConfig(), CPU)(images, (32, 48))
    formats: dict[Precision, torch.dtype] = {"tf32": torch.float32, "bf16": torch.bfloat16}
    for precision, inside in formats.items():
        labels, confidence = make_predict(network, EvaluationConfig(precision=precision), CPU)(images, (32, 48))
        assert seen[-1] == inside and torch.as_tensor(confidence).dtype == torch.float32
        torch.testing.assert_close(torch.as_tensor(confidence), torch.as_tensor(exact.confidence), atol=0.01, rtol=0)
        same = (torch.as_tensor(labels) == torch.as_tensor(exact.labels)).float().mean()
        assert same == 1 if precision == "tf32" else same > 0.97


def test_the_format_is_said_beside_the_scores() -> None:
    assert input_text(EvaluationConfig(), "fog", {(96, 192)}) == "1 × 192×96 px"
    assert input_text(EvaluationConfig(precision="bf16"), "fog", {(96, 192)}) == "1 × 192×96 px, in bf16"
