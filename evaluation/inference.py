"""From a network to label maps: resizing, sliding windows, mirrored and rescaled inputs, labels at the image's size."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.precision import Precision
from pipeline.data.windows import window_starts
from pipeline.work.in_flight import InFlight

Network = Callable[[torch.Tensor], torch.Tensor]
"""(B,3,H,W) float RGB in 0..255 -> logits (B,19,h,w), any h and w."""

Size = tuple[int, int]
"""Height and width, px."""

STRIP_VALUES = 2**24
"""Probabilities that are held at once for one pass where several are averaged: 64 MB."""


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

    def logits(images: torch.Tensor) -> torch.Tensor:
        if config.window is None or stride is None:
            return torch.cat(list(seen.parts(lambda part: network(images[part]), len(images))))
        return sliding_logits(network, images, config.window, stride, seen)

    def together(images: NDArray[np.uint8], size: Size) -> PredictedLabels:
        pixels = torch.tensor(images, device=device).movedim(3, 1).float()
        passes = (
            logits(image).flip(3) if mirrored else logits(image) for image, mirrored in _inputs(pixels, size, config)
        )
        return read(passes, pixels.shape[2:], single=not config.flip and len(config.scales) == 1)

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
    """Every input of the network for one batch, and whether it is mirrored."""
    for scale in config.scales:
        image = _resized(pixels, _scaled(size, scale), antialias=config.input_filter == "antialiased")
        yield image, False
        if config.flip:
            yield image.flip(3), True


def sliding_logits(
    network: Network, images: torch.Tensor, window: Size, stride: Size, batch_size: InFlight | int
) -> torch.Tensor:
    """Mean over overlapping windows of their logits, each enlarged to its window (mmsegmentation's slide inference).

    images: (B,3,H,W); the last window of a row or column is moved inwards so that it ends at the border.
    Returns (B,19,H,W). Windows of all images are stacked, `batch_size` of them at a time.
    """
    # An image that is smaller than the window is one window of its own size.
    height, width = (min(side, of) for side, of in zip(window, images.shape[2:], strict=True))
    tops, lefts = (window_starts(*axis) for axis in zip(images.shape[2:], window, stride, strict=True))
    places = list(product(range(len(images)), tops, lefts))
    # Windows of all images go through the network together; where they overlap, their logits are summed here and
    # divided below by how many there were.
    total: torch.Tensor | None = None
    if isinstance(batch_size, int):
        batch_size = InFlight("window", batch_size, "machine.evaluation_batch", "take smaller windows")

    def seen(part: slice) -> tuple[list[tuple[int, int, int]], torch.Tensor]:
        group = places[part]
        windows = torch.stack([images[i, :, top : top + height, left : left + width] for i, top, left in group])
        return group, _resized(network(windows), (height, width))

    for group, logits in batch_size.parts(seen, len(places)):
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], *images.shape[2:])
        for (i, top, left), part in zip(group, logits, strict=True):
            total[i, :, top : top + height, left : left + width] += part
    assert total is not None
    # The windows lie on a grid, so how many hold a pixel is a product of its row's and its column's count.
    rows, columns = (
        _cover(whole, starts, part).to(total.device)
        for whole, starts, part in zip(images.shape[2:], (tops, lefts), (height, width), strict=True)
    )
    return total / (rows[:, None] * columns)


def _cover(whole: int, starts: Sequence[int], part: int) -> torch.Tensor:
    """(whole,) how many windows hold each row or column."""
    cover = torch.zeros(whole)
    for start in starts:
        cover[start : start + part] += 1
    return cover


def read(passes: Iterator[torch.Tensor], size: Sequence[int], *, single: bool) -> PredictedLabels:
    """Logits (B,19,h,w) of one pass, or of several whose probabilities are averaged -> labels and confidence.

    Logits are enlarged bilinearly to `size` before the largest is taken.
    """
    if single:
        return _read(next(passes), size)
    return _averaged(list(passes), size)


def _averaged(passes: Sequence[torch.Tensor], size: Sequence[int]) -> PredictedLabels:
    """Labels and confidence of the mean of the passes' probabilities, a strip of rows at a time: all classes of a
    24-megapixel image at once would take 2 GB for each of several copies."""
    batch, classes = passes[0].shape[:2]
    labels = torch.empty((batch, *size), dtype=torch.uint8, device=passes[0].device)
    confidence = torch.empty((batch, *size), dtype=passes[0].dtype, device=passes[0].device)
    height = max(1, STRIP_VALUES // (batch * classes * size[1]))
    for first in range(0, size[0], height):
        rows = slice(first, min(first + height, size[0]))
        # Probabilities are averaged, not logits: a pass that is sure of itself does not outvote the others without
        # bound.
        total = sum(_enlarged_rows(logits, size, rows).softmax(dim=1) for logits in passes) / len(passes)
        assert isinstance(total, torch.Tensor)
        best = total.max(dim=1)
        labels[:, rows], confidence[:, rows] = best.indices.to(torch.uint8), best.values
    return PredictedLabels(labels, confidence)


def _enlarged_rows(logits: torch.Tensor, size: Sequence[int], rows: slice) -> torch.Tensor:
    """Some rows of `_resized(logits, size)`: (B,19,h,w) -> (B,19,rows,W)."""
    height = logits.shape[2]
    if tuple(logits.shape[2:]) == tuple(size):
        return logits[:, :, rows]
    if size[0] < height or size[1] < logits.shape[3]:
        return _resized(logits, size)[:, :, rows]  # the filter that shrinks looks at more than two rows
    # The rows that lie above and below each wanted row's center, and how far it is from the upper one.
    centers = (torch.arange(rows.start, rows.stop, device=logits.device) + 0.5) * (height / size[0]) - 0.5
    centers = centers.clamp(min=0)
    above = centers.long()
    below = (above + 1).clamp(max=height - 1)
    share = (centers - above).to(logits.dtype)[:, None]
    between = logits[:, :, above] * (1 - share) + logits[:, :, below] * share
    return _resized(between, (rows.stop - rows.start, size[1]))


def _read(logits: torch.Tensor, size: Sequence[int]) -> PredictedLabels:
    """One class at a time, so that memory does not hold 19 maps of the image's size (nor is it slower)."""
    # softmax's largest value is exp(top - log(sum(exp))): both are kept up to date class by class.
    top = _resized(logits[:, :1], size)[:, 0].clone()
    total = top.clone()  # log of the sum of exponentials so far
    labels = torch.zeros_like(top, dtype=torch.uint8)
    for train_id in range(1, logits.shape[1]):
        logit = _resized(logits[:, train_id : train_id + 1], size)[:, 0]
        labels.masked_fill_(logit > top, train_id)
        torch.logaddexp(total, logit, out=total)
        torch.maximum(top, logit, out=top)
    return PredictedLabels(labels, (top - total).exp_())


def _resized(images: torch.Tensor, size: Sequence[int], *, antialias: bool = True) -> torch.Tensor:
    """Bilinear, without aliasing where it shrinks."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    shrinks = size[0] < images.shape[2] or size[1] < images.shape[3]
    return interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=shrinks and antialias)


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def two_thirds(window: Size) -> Size:
    """The stride of sliding windows where none is given (ours)."""
    return -(-2 * window[0] // 3), -(-2 * window[1] // 3)


def _size_text(sizes: set[Size]) -> str:
    ends = dict.fromkeys((min(sizes), max(sizes)))
    return " to ".join(f"{width}×{height}" for height, width in ends) + " px"
