"""What training and predicting would cost on a GPU, counted on the segmenter without its weights."""

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, interpolate

from pipeline.config.training import Method, NetworkConfig, TrainingConfig
from pipeline.data.labels import IGNORE
from pipeline.work.cost import Cost, counted, tensors_of
from training.encoders import PUBLISHED, encoder_config, published_config
from training.hrda import CropBox
from training.networks import Segmenter

Size = tuple[int, int]
"""Height and width, px."""


def segmenter_shape(config: NetworkConfig) -> Segmenter:
    """The network on torch's meta device: it has shapes and no weights. A published encoder that is known by its name
    is not fetched for it."""
    name = config.pretrained
    if name is not None and (known := name.rpartition("/")[2]) in PUBLISHED and not Path(name).exists():
        config = config.model_copy(update={"pretrained": None, "encoder": known})
    encoder = encoder_config(config) if config.pretrained is None else published_config(config.pretrained)
    hrda = None if config.hrda is None else config.hrda.model_dump(mode="json")
    with torch.device("meta"):
        return Segmenter(encoder, channels=config.channels, dropout=config.dropout, hrda=hrda)


def training_step(config: TrainingConfig, method: Method, processes: int = 1) -> Cost:
    """The FLOPs of one iteration of all processes, and the memory of one of them.

    Forward pass, cross-entropy and backward pass are counted; SHADE doubles the images, feature distance adds its
    teacher. GAP, UBE and the optimizer's arithmetic are left out: they are small. Under bf16 all activations count half
    (ours: norms and losses stay float32, which is more).
    """
    half = config.precision == "bf16"
    segmenter = segmenter_shape(config.network).train()
    weights = sum(weight.numel() for weight in segmenter.parameters())
    if half:
        segmenter.bfloat16()
    images = config.batch_size // (processes * config.accumulation) * (2 if method.shade else 1)
    inputs = round(config.crop[0] * config.scale), round(config.crop[1] * config.scale)
    picture = _meta(segmenter, images, 3, *inputs)
    label = torch.zeros(images, *config.crop, device="meta", dtype=torch.int64)
    hrda = config.network.hrda
    box = None if hrda is None else CropBox(0, hrda.detail_crop[0], 0, hrda.detail_crop[1])

    def step() -> None:
        if method.feature_distance:
            with torch.no_grad():  # HRDA's whole picture is its context at half size; this counts the teacher on it
                seen = picture if box is None else interpolate(picture, scale_factor=0.5)
                segmenter.encoder(seen, output_hidden_states=True)
        output = segmenter(picture) if box is None else segmenter(picture, box)
        loss = _loss(output.logits, label)
        if output.detail is not None and box is not None:
            loss = loss + _loss(output.detail, label[:, *box.at(1 / config.scale)])
        loss.backward()

    parts = min(config.accumulation, 2)  # a second part finds the first one's gradients in memory

    def all_parts() -> None:
        for _ in range(parts):
            step()

    cost = counted(all_parts, tensors_of(segmenter))
    # AdamW's two moments; under autocast the weights and gradients in float32 too, beside those in bf16.
    beside = weights * (14 if half else 8) + (weights * 4 if method.feature_distance else 0)
    return Cost(round(cost.flops * config.accumulation * processes / parts), cost.memory + beside)


def prediction(segmenter: Segmenter, images: int, size: Size) -> Cost:
    """The network's call on `images` inputs of `size`."""
    segmenter.eval()
    with torch.inference_mode():
        picture = _meta(segmenter, images, 3, *size)
        return counted(lambda: segmenter(picture).logits, tensors_of(segmenter))


def _loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    enlarged = interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    return cross_entropy(enlarged, label, ignore_index=IGNORE)


def _meta(segmenter: Segmenter, *shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=segmenter.classifier.weight.dtype)
