"""From a network to label maps: resizing, sliding windows, mirrored and rescaled inputs, labels at the image's size."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.resizing import Size, WholeLogits, resized, resized_rows
from evaluation.sliding import SlidingLogits
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.precision import Precision
from pipeline.data.labels import NUM_CLASSES
from pipeline.work.in_flight import InFlight

T = TypeVar("T")

Network = Callable[[torch.Tensor], torch.Tensor]
"""(B,3,H,W) float RGB in 0..255 -> logits (B,19,h,w), any h and w."""

STRIP_VALUES = 2**24
"""Probabilities that are held at once for one pass, where windows slide or several passes are averaged: 64 MB."""


class PredictedLabels(NamedTuple):
    """Labels (B,H,W) uint8 train ids, and the largest softmax probability (B,H,W) in 0..1 where it is known."""

    labels: torch.Tensor | NDArray[np.uint8]
    confidence: torch.Tensor | NDArray[np.float32] | None = None


Predict = Callable[[NDArray[np.uint8], Size], PredictedLabels]
"""Images (B,H,W,3) uint8 RGB and the size of the network's input -> labels at the images' own size."""


def input_size(config: EvaluationConfig, domain: str, image: Size) -> Size:
    """The size that the network sees an image at: `config.size` of the domain, else `config.scale` times its own."""
    box = config.size.get(domain)
    if box is None:
        return _scaled(image, config.scale)
    return _scaled(image, min(most / side for most, side in zip(sorted(box), sorted(image), strict=True)))


def input_text(config: EvaluationConfig, domain: str, images: set[Size]) -> str:
    """What the network saw, as people write it: `1024×512 px of 2048×1024 px, flipped`."""
    if not images:
        return "no image"
    text = f"{config.scale:g} × {_size_text(images)}"
    if config.size.get(domain):
        text = f"{_size_text({input_size(config, domain, image) for image in images})} of {_size_text(images)}"
    if config.window:
        text += f", windows of {_size_text({config.window})}"
    if config.scales != (1.0,):
        text += f", at {', '.join(f'{scale:g}' for scale in config.scales)} times that"
    text += ", flipped" if config.flip else ""
    return text if config.precision == "fp32" else f"{text}, in {config.precision}"


def make_predict(network: Network, config: EvaluationConfig, device: torch.device, batch_size: int = 1) -> Predict:
    """`predict` by a network on `device`, which sees at most `batch_size` images or windows at a time, and half as many
    from then on where the GPU's memory is full."""
    network = in_precision(network, config.precision, device)
    stride = config.window and (config.stride or two_thirds(config.window))
    seen, whole = (
        InFlight(what, batch_size, "machine.evaluation_batch", "set evaluation.window, or smaller ones")
        for what in ("window" if config.window else "image", "image")
    )

    def logits(images: torch.Tensor, mirrored: bool) -> torch.Tensor | SlidingLogits:
        if config.window is not None and stride is not None:
            return SlidingLogits(network, images, config.window, stride, batch_size=seen, mirrored=mirrored)
        given = images.flip(3) if mirrored else images
        whole = torch.cat(list(seen.parts(lambda part: network(given[part]), len(given))))
        return whole.flip(3) if mirrored else whole

    def together(images: NDArray[np.uint8], size: Size) -> PredictedLabels:
        pixels = torch.tensor(images, device=device).movedim(3, 1).float()
        return read((logits(*given) for given in _inputs(pixels, size, config)), pixels.shape[2:])

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8], size: Size) -> PredictedLabels:
        predictions = list(whole.parts(lambda part: together(images[part], size), len(images)))
        labels, confidences = (
            [torch.as_tensor(values) for values in column] for column in zip(*predictions, strict=True)
        )
        return PredictedLabels(torch.cat(labels), torch.cat(confidences))

    return predict


def in_precision(network: Network, precision: Precision, device: torch.device) -> Network:
    """The network as it computes in bf16, with float32 logits; as it is for other formats."""
    if precision != "bf16":
        return network

    def logits(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return network(images).float()

    return logits


def _inputs(pixels: torch.Tensor, size: Size, config: EvaluationConfig) -> Iterator[tuple[torch.Tensor, bool]]:
    """Every input of the network for one batch, and whether it is to be mirrored."""
    for scale in config.scales:
        image = resized(pixels, _scaled(size, scale), antialias=config.input_filter == "antialiased")
        yield from ((image, mirrored) for mirrored in ((False, True) if config.flip else (False,)))


def read(passes: Iterator[torch.Tensor | SlidingLogits], size: Sequence[int]) -> PredictedLabels:
    """Logits (B,19,h,w) of one pass, or of several whose probabilities are averaged -> labels and confidence.

    Logits are enlarged bilinearly to `size` before the largest is taken.
    """
    every = list(passes)
    if len(every) == 1 and isinstance(every[0], torch.Tensor):
        return _read(every[0], size)
    return _averaged([WholeLogits(one) if isinstance(one, torch.Tensor) else one for one in every], size)


def _averaged(passes: Sequence[WholeLogits | SlidingLogits], size: Sequence[int]) -> PredictedLabels:
    """Labels and confidence of the mean of the passes' probabilities, a strip of rows at a time: all classes of a
    24-megapixel image at once would take 2 GB for each of several copies."""
    labels, confidences = [], []
    height = max(1, STRIP_VALUES // (passes[0].number * NUM_CLASSES * size[1]))
    for first in range(0, size[0], height):
        rows = slice(first, min(first + height, size[0]))
        # Probabilities are averaged, not logits: a pass that is sure of itself does not outvote the others without
        # bound.
        total = sum(resized_rows(logits, size, rows).softmax(dim=1) for logits in passes) / len(passes)
        assert isinstance(total, torch.Tensor)
        best = total.max(dim=1)
        labels.append(best.indices.to(torch.uint8))
        confidences.append(best.values)
    return PredictedLabels(torch.cat(labels, dim=1), torch.cat(confidences, dim=1))


def _read(logits: torch.Tensor, size: Sequence[int]) -> PredictedLabels:
    """One class at a time, so that memory does not hold 19 maps of the image's size (nor is it slower)."""
    # softmax's largest value is exp(top - log(sum(exp))): both are kept up to date class by class.
    top = resized(logits[:, :1], size)[:, 0].clone()
    total = top.clone()  # log of the sum of exponentials so far
    labels = torch.zeros_like(top, dtype=torch.uint8)
    for train_id in range(1, logits.shape[1]):
        logit = resized(logits[:, train_id : train_id + 1], size)[:, 0]
        labels.masked_fill_(logit > top, train_id)
        torch.logaddexp(total, logit, out=total)
        torch.maximum(top, logit, out=top)
    return PredictedLabels(labels, (top - total).exp_())


def same_size(items: Iterable[T], most: int, size_of: Callable[[T], Size]) -> Iterator[list[T]]:
    """Neighbors of one size, up to `most` of them, which a network can see together."""
    batch: list[T] = []
    for item in items:
        if batch and (len(batch) == most or size_of(batch[0]) != size_of(item)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def two_thirds(window: Size) -> Size:
    """The stride of sliding windows where none is given (ours)."""
    return -(-2 * window[0] // 3), -(-2 * window[1] // 3)


def _size_text(sizes: set[Size]) -> str:
    ends = dict.fromkeys((min(sizes), max(sizes)))
    return " to ".join(f"{width}×{height}" for height, width in ends) + " px"
