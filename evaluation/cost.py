"""What scoring would cost on a GPU. The network is a stranger here: its calls' costs are asked for."""

from collections.abc import Callable

from evaluation.inference import input_size, two_thirds
from evaluation.resizing import Size
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.labels import NUM_CLASSES
from pipeline.data.windows import window_starts
from pipeline.work.cost import Cost

CallCost = Callable[[int, Size], Cost]
"""The cost of the network's call on so many inputs of that size (height, width) in px."""


def scored_image(config: EvaluationConfig, domain: str, image: Size, batch: int, call: CallCost) -> Cost:
    """The FLOPs of predicting one image of `image` px of a domain, and the memory when `batch` of them, or of their
    windows, are seen at once."""
    cost = Cost(0, 0)
    for scale in config.scales:
        height, width = (max(1, round(side * scale)) for side in input_size(config, domain, image))
        inputs, places = (height, width), 1
        if config.window is not None:
            stride = config.stride or two_thirds(config.window)
            axes = zip((height, width), config.window, stride, strict=True)
            rows, columns = (len(window_starts(*axis)) for axis in axes)
            inputs = min(height, config.window[0]), min(width, config.window[1])
            places = rows * columns
        seen = call(batch, inputs)
        # the sum of overlapping windows' logits, for all images of the batch
        beside = 4 * batch * NUM_CLASSES * height * width if config.window is not None else 0
        passes = places * (2 if config.flip else 1)
        cost = cost.then(Cost(round(seen.flops / batch * passes), seen.memory + beside))
    return cost
