"""What work on a GPU would cost, counted on tensors without content (torch's meta device): FLOPs and peak memory.

These are estimates and are printed as such. FLOPs are those of matrix products, convolutions and attention (torch's
FlopCounterMode; a multiplication with its addition is two). Memory is the most that is alive at once of what torch's
operations make, weights included: what fragmentation, convolution workspaces and CUDA itself take comes on top, about
a gigabyte (ours).
"""

import math
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.precision import Precision
from pipeline.errors import UserError

UTILISATION = 0.4
"""Share of a card's rate that is reached (ours, assumed: measure yours by `python -m benchmarks.gpu`)."""

RATES: dict[Precision, float] = {"bf16": 1.0, "tf32": 1 / 2, "fp32": 1 / 15}
"""Rate in each number format over that in bf16, as the A100's and the H100's data sheets have it (312, 156 and 19.5
TFLOPS; 989, 494 and 67)."""


class Cost(NamedTuple):
    """What a piece of work costs: FLOPs, and bytes of GPU memory at its peak."""

    flops: int
    memory: int

    def times(self, count: float) -> "Cost":
        """The same work `count` times, one after the other."""
        return Cost(round(self.flops * count), self.memory)

    def then(self, other: "Cost") -> "Cost":
        """This work and then the other, in the same memory."""
        return Cost(self.flops + other.flops, max(self.memory, other.memory))


class Card(NamedTuple):
    """A GPU: dense bf16 FLOP/s of its matrix units and bytes of memory, as published."""

    name: str
    rate: float
    memory: int | None = None


CARDS = (
    # NVIDIA A100 Tensor Core GPU data sheet: 312 TFLOPS BF16, 40 or 80 GB
    Card("a100", 312e12, 80 * 10**9),
    Card("a100-40gb", 312e12, 40 * 10**9),
    # NVIDIA H100 data sheet, SXM: 1,979 TFLOPS BF16 with sparsity, half of it dense; PCIe: 1,513 with sparsity
    Card("h100", 989e12, 80 * 10**9),
    Card("h100-pcie", 756e12, 80 * 10**9),
    # NVIDIA H200 data sheet, SXM: as the H100, 141 GB
    Card("h200", 989e12, 141 * 10**9),
    # NVIDIA L4 data sheet: 242 TFLOPS BF16 with sparsity
    Card("l4", 121e12, 24 * 10**9),
    # NVIDIA L40S data sheet: 362 TFLOPS BF16 dense
    Card("l40s", 362e12, 48 * 10**9),
    # NVIDIA A10 data sheet: 125 TFLOPS BF16 dense
    Card("a10", 125e12, 24 * 10**9),
    # NVIDIA V100 data sheet, SXM2: 125 TFLOPS of fp16, as it has no bf16
    Card("v100", 125e12, 32 * 10**9),
    # NVIDIA Ada architecture whitepaper: RTX 4090, 165.2 TFLOPS BF16 with FP32 accumulation, dense
    Card("rtx4090", 165.2e12, 24 * 10**9),
    # NVIDIA GA102 architecture whitepaper: RTX 3090, 71 TFLOPS BF16 with FP32 accumulation, dense
    Card("rtx3090", 71e12, 24 * 10**9),
)


def find_card(text: str) -> Card:
    """The card that `text` names: one of `CARDS`, or a rate in TFLOPS. UserError for anything else."""
    wanted = re.sub(r"[\s_]", "-", text.strip().lower().removeprefix("nvidia "))
    for card in CARDS:
        if wanted in {card.name, card.name.replace("rtx", "rtx-")}:
            return card
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        names = ", ".join(card.name for card in CARDS)
        raise UserError(f"--card is {text!r}: name one of {names}, or give a rate in TFLOPS, for instance 312")
    return Card(f"{rate:g} TFLOPS", rate * 1e12)


def hours(flops: float, card: Card, utilisation: float = UTILISATION, precision: Precision = "bf16") -> float:
    """How long one card takes if it reaches that share of its rate."""
    return flops / (card.rate * RATES[precision] * utilisation) / 3600


def counted(work: Callable[[], object], weights: Iterable[torch.Tensor] = ()) -> Cost:
    """The cost of `work`, which computes on meta tensors. `weights` are in memory all the while, used or not."""
    memory = _Alive(weights)
    with flop_counter() as flops, _FusedAttention(), memory:
        kept = work()  # what it returns is alive until here
    del kept
    return Cost(flops.get_total_flops(), memory.peak)


def flop_counter() -> FlopCounterMode:
    """torch's counter of FLOPs, right about the backward pass of depthwise convolutions too."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    gradient: Sequence[int], image: Sequence[int], weight: Sequence[int], *settings: Any, **_: Any
) -> int:
    """FLOPs of a convolution's backward pass, from shapes: for the gradient of its input and for that of its weight as
    many as the forward pass has. torch's own formula takes a depthwise convolution for a dense one."""
    transposed, wanted = settings[4], settings[7]
    places = image if transposed else gradient
    return 2 * math.prod(places) * math.prod(weight[1:]) * sum(wanted[:2])


def tensors_of(*networks: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers of networks."""
    return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]


class _Alive(TorchDispatchMode):
    """Sums the bytes of all storages that operations see or make, as long as they live."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not type it
        self.now = self.peak = 0
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, bool] = weakref.WeakKeyDictionary()
        for tensor in weights:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._see([args, list((kwargs or {}).values()), result])
        return result

    def _see(self, tensor: Any) -> None:
        if isinstance(tensor, list | tuple):
            for part in tensor:
                self._see(part)
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = True
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as GPUs compute it, without a table of all pairs; on meta tensors torch would make one."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is scaled_dot_product_attention and options.get("attn_mask") is None and len(args) == 3:
            query, key, value = args
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return func(*args, **options)
