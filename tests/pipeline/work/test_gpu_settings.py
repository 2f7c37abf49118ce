"""How a process computes on a GPU. The switches are torch's own, and can be set without one."""

from collections.abc import Iterator

import pytest
import torch

from pipeline.config.precision import Precision
from pipeline.work.devices import set_up_gpu

GPU = torch.device("cuda")


def switches() -> tuple[str, bool, bool, bool]:
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul.allow_tf32
    return torch.get_float32_matmul_precision(), matmul, cudnn.allow_tf32, cudnn.benchmark


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    matmul, _, convolutions, benchmark = switches()
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = convolutions, benchmark


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", True)])
@pytest.mark.parametrize("autotune", [True, False])
def test_each_stage_says_anew_what_products_and_convolutions_may_do(
    precision: Precision, tf32: bool, autotune: bool
) -> None:
    set_up_gpu(GPU, "tf32" if precision == "fp32" else "fp32", autotune=not autotune)  # what another stage left
    set_up_gpu(GPU, precision, autotune=autotune)
    assert switches() == ("high" if tf32 else "highest", tf32, tf32, autotune)


def test_nothing_changes_for_a_cpu() -> None:
    before = switches()
    set_up_gpu(torch.device("cpu"), "tf32", autotune=True)
    assert switches() == before
