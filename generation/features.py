"""Feature caching: deep features change slowly from step to step, so some steps may reuse them (approximate)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from generation.models import Generator


class FeatureCache:
    """Outputs of modules, by module and group of windows, that are either stored or given again."""

    def __init__(self) -> None:
        self.group = 0
        self.reuse = False
        self._outputs: dict[tuple[nn.Module, int], Any] = {}

    def around(self, module: nn.Module) -> Callable[..., Any]:
        """The module's `forward`, which runs only where nothing is reused."""
        forward = module.forward

        def run_or_reuse(*args: Any, **options: Any) -> Any:
            if not self.reuse:
                self._outputs[module, self.group] = forward(*args, **options)
            return self._outputs[module, self.group]

        return run_or_reuse


@contextmanager
def feature_cache(generator: Generator, every: int) -> Iterator[FeatureCache]:
    """Inside, steps with `reuse` run the U-Net's outermost blocks alone (after DeepCache, Ma et al., CVPR 2024).

    Exactly: the outputs of the ControlNet, of the U-Net's down blocks but the first, of its middle block and of its up
    blocks but the last are those of the latest step without `reuse`. Everything else is computed with the step's own
    latents: convolutions in and out, first down block and last up block. `every` = 1 changes nothing.
    """
    cache, unet = FeatureCache(), generator.unet
    deep = [generator.controlnet, *unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]] if every > 1 else []
    for module in deep:
        module.forward = cache.around(module)
    try:
        yield cache
    finally:
        for module in deep:
            del module.forward  # the instance's; the class still has its own
