"""The segmentation network: an encoder, DAFormer's decoder and a classifier, at one scale or at HRDA's two."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import nn
from torch.nn.functional import interpolate

from pipeline.config.training import HrdaConfig, NetworkConfig
from pipeline.data.labels import CLASS_NAMES, NUM_CLASSES
from pipeline.errors import UserError
from training.decoder import FusionDecoder, ScaleAttention, start_by_fan_out
from training.encoders import build_encoder, config_of, encoder_config, pretrained_encoder, stages
from training.hrda import CropBox, averaged, fuse_detail, windows

STRIDE = 4
"""Image px per cell of the logits, each side."""
LAYOUT_VERSION = 1
"""The layout of a stored segmenter: names and shapes of its weights, and what its config.json holds. Raise it when
either changes so that an older folder could be read wrongly."""
WINDOWS_AT_ONCE = 8
"""Detail windows of an image that go through the network together: bounds the memory of a prediction."""
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)
_CARD = """---
{{ card_data }}
---

# A street-scene segmenter by flexseg

| | |
|---|---|
| encoder | {{ encoder }} |
| decoder | {{ decoder }} |
| classes | {{ classes }} |
| input | RGB in 0..255 less ImageNet's mean, over its deviation; {{ scale }} px per image px in training |
| output | logits at a quarter of the input's size |
| parameters | {{ parameters }} |
| license | that of the code: Apache-2.0; pretrained weights and training data bring their own |

Load it from flexseg's folder:

```python
from training.networks import Segmenter
segmenter = Segmenter.from_pretrained(FOLDER, strict=True).eval()

from training.predict import predictor
predict = predictor(Path(FOLDER), scale={{ scale }}, device="cpu")  # (H,W,3) uint8 RGB -> (H,W) uint8 train ids
```

The scale at which a segmenter is tested moves its scores: state it beside them.
"""


class NetworkOutput(NamedTuple):
    """What the network says of a batch of images (B,3,H,W)."""

    logits: torch.Tensor
    """(B,19,H/4,W/4); of HRDA the fused ones."""
    features: torch.Tensor
    """What the prototypes see, (B,D,H/4,W/4). Of HRDA those of the context alone, (B,D,H/8,W/8) (ours): they cover the
    whole crop, and a cell spans as much of the scene as DAFormer's does at half the resolution."""
    detail: torch.Tensor | None = None
    """The logits of HRDA's detail crop, (B,19,h/4,w/4), where one was asked for."""


def network_input(image: torch.Tensor, scale: float) -> torch.Tensor:
    """RGB in 0..255, (B,3,H,W) float, resized by `scale` and normalized by ImageNet's mean and deviation."""
    if scale != 1:
        size = [round(side * scale) for side in image.shape[2:]]
        image = interpolate(image, size, mode="bilinear", align_corners=False, antialias=scale < 1)
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (_MEAN, _STD))
    return (image - mean) / std


def check_layout(what: str, version: object) -> None:
    """UserError unless this flexseg reads stored segmenters of this layout version. what: which one is read."""
    if version == LAYOUT_VERSION:
        return
    newer = isinstance(version, int) and version > LAYOUT_VERSION
    fix = "install that flexseg or a newer one" if newer else "convert or train it again, or load it with that flexseg"
    raise UserError(
        f"{what} was stored by {'a newer' if newer else 'another'} flexseg (layout version {version!r}, this one reads"
        f" {LAYOUT_VERSION}): {fix}"
    )


class Segmenter(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="flexseg",
    pipeline_tag="image-segmentation",
    license="apache-2.0",
    model_card_template=_CARD,
):
    """Encoder, decoder and classifier, shared by both of HRDA's scales.

    `save_pretrained(folder)` writes config.json, model.safetensors and a model card, `Segmenter.from_pretrained(folder,
    strict=True)` reads them.

    UserError: a folder of another layout version.

    encoder: transformers' config of it as a dict; channels: of the decoder and its features; hrda: an `HrdaConfig` as a
    dict, None for DAFormer; scale: the input's size over the image's in training, for the record; layout_version: that
    of the folder that it is read from (folders without one are of version 1).
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        channels: int = 256,
        dropout: float = 0.1,
        classes: int = NUM_CLASSES,
        *,
        hrda: Mapping[str, Any] | None = None,
        scale: float = 1.0,
        layout_version: int = LAYOUT_VERSION,
    ) -> None:
        super().__init__()
        check_layout("this segmenter", layout_version)
        self.scale = scale
        self.encoder = build_encoder(encoder)
        sizes = self.encoder.config.hidden_sizes
        self.decoder = FusionDecoder(sizes, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        self.hrda = None if hrda is None else HrdaConfig.model_validate(hrda)
        if self.hrda is not None:
            self.attention = ScaleAttention(sizes, self.hrda.attention_channels, dropout, classes)

    def forward(self, image: torch.Tensor, box: CropBox | None = None) -> NetworkOutput:
        """Normalized image (B,3,H,W) -> what the network says.

        HRDA wants height and width in multiples of 8. It looks at the detail crop `box` alone, as in training, or
        without one at overlapping detail windows all over the image.
        """
        if self.hrda is None:
            features = self.decoder(stages(self.encoder, image))
            return NetworkOutput(self.classifier(self.dropout(features)), features)
        height, width = image.shape[2:]
        half = interpolate(image, (height // 2, width // 2), mode="bilinear", align_corners=False)
        context = stages(self.encoder, half)
        features = self.decoder(context)
        logits, attention = self.classifier(self.dropout(features)), self.attention(context)
        if box is not None:
            detail = self._logits(image[:, :, *box.at(1)])
            return NetworkOutput(fuse_detail(logits, detail, attention, box), features, detail)
        boxes = windows((height, width), self.hrda.detail_crop)
        detail = averaged(image, boxes, self._logits, stride=STRIDE, at_once=WINDOWS_AT_ONCE)
        return NetworkOutput(fuse_detail(logits, detail, attention, CropBox(0, height, 0, width)), features)

    @classmethod
    def create(cls, config: NetworkConfig, seed: int, scale: float = 1.0) -> Self:
        """A network to be trained. `seed` gives all weights that `config.pretrained` does not."""
        hrda = None if config.hrda is None else config.hrda.model_dump(mode="json")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            options: dict[str, Any] = {
                "channels": config.channels,
                "dropout": config.dropout,
                "hrda": hrda,
                "scale": scale,
            }
            if config.pretrained is None:
                segmenter = cls(encoder_config(config), **options)
            else:
                encoder = pretrained_encoder(config.pretrained, config.drop_path)
                segmenter = cls(config_of(encoder), **options)
                segmenter.encoder = encoder
            if config.decoder_init == "fan-out":
                start_by_fan_out(segmenter.decoder)
                if segmenter.hrda is not None:
                    start_by_fan_out(segmenter.attention)
            return segmenter

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that `save_pretrained` writes: what the network is and how to use it."""
        config = self.encoder.config
        decoder = f"DAFormer, {self.classifier.in_channels} channels"
        if self.hrda is not None:
            decoder += f"; HRDA, scales 0.5 and 1, detail windows of {' x '.join(map(str, self.hrda.detail_crop))} px"
        return super().generate_model_card(
            *args,
            encoder=f"{config.model_type}, depths {config.depths}, channels {config.hidden_sizes}",
            decoder=decoder,
            classes=", ".join(f"{index} {name}" for index, name in enumerate(CLASS_NAMES)),
            scale=self.scale,
            parameters=f"{sum(weight.numel() for weight in self.parameters()):,}",
            **kwargs,
        )

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) -> (B,19,H/4,W/4), at one scale."""
        return torch.as_tensor(self.classifier(self.dropout(self.decoder(stages(self.encoder, image)))))
