"""From requests to images, batch by batch."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from generation.crops import LabelReader
from generation.denoise import denoise
from generation.fusion import fuse
from generation.models import GeneratorNetworks, NotFiniteError
from generation.schedulers import generators, starting_noise
from generation.windows import grid
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.errors import UserError
from pipeline.requests import GenerationRequest
from pipeline.seeding import derive_seed
from pipeline.work.devices import set_up_gpu
from pipeline.work.in_flight import InFlight

MACHINE = Machine()
"""The usual portions of work."""


KEPT_TEXTS = 2**28
"""Bytes of text embeddings that are kept (ours): a thousand of CLIP's, where 10,000 images may have as many prompts."""
DECODED_PX = 2**20
"""Px that the VAE decodes at once (ours): one image of 1024x1024 px, for which Stable Diffusion's takes 2.5 GB."""


class Painter:
    """Turns requests into images with one generator; the latest text embeddings are kept, up to `KEPT_TEXTS`.

    The generator's networks are prepared in place, as the config has it: it is the painter's from then on. `machine`
    says in what portions it works. Where a GPU's memory is full, what is in flight is halved from then on: images in
    all, windows in a call of the networks, images in a call of the VAE. No image changes but for the last bits of sums,
    as with other portions.
    """

    def __init__(self, config: GenerationConfig, networks: GeneratorNetworks, machine: Machine = MACHINE) -> None:
        check_grid(config, networks)
        set_up_gpu(networks.device, config.precision, autotune=machine.autotune)  # images and windows are of one size
        networks.prepare(config, compiled=machine.compile_generator)
        self._config = config
        self._machine = machine
        self._networks = networks
        self._texts: OrderedDict[str, torch.Tensor] = OrderedDict()
        less = "lower generation.size or take generation.precision bf16"
        self._images = InFlight("image", machine.generation_batch, "machine.generation_batch", less)
        self._windows = InFlight("window", machine.window_batch, "machine.window_batch", less)
        decoded = max(1, DECODED_PX // (config.size[0] * config.size[1]))
        self._decoded = InFlight("image", decoded, "in the VAE's decoder", less)

    def paint(
        self, requests: Sequence[GenerationRequest], reader: LabelReader
    ) -> Iterator[tuple[GenerationRequest, np.ndarray, np.ndarray]]:
        """Each request with its image (H, W, 3) uint8 and its label map (H, W), in order.

        UserError where an image is not finite or of one colour: nobody would look at it before it is trained on.
        """
        size = self._machine.generation_batch
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            labels = np.stack([reader.crop(request.source, request.box) for request in batch])
            images = self._batch(batch, labels)
            for request, image in zip(batch, images, strict=True):
                if (image == image[0, 0]).all():
                    raise self._unusable(request, "is of one colour")
            yield from zip(batch, images, labels, strict=True)

    def _batch(self, batch: Sequence[GenerationRequest], labels: np.ndarray) -> np.ndarray:
        """Images (B, H, W, 3) uint8, painted together as far as the memory allows."""

        def paint(part: slice) -> np.ndarray:
            requests = batch[part]
            try:
                return self.images(labels[part], [r.prompt for r in requests], [r.seed for r in requests])
            except NotFiniteError as error:
                raise self._unusable(requests[error.row], "is not finite") from error

        return np.concatenate(list(self._images.parts(paint, len(batch))))

    def images(self, labels: np.ndarray, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Images (B, H, W, 3) uint8 painted onto label maps (B, H, W)."""
        networks = self._networks
        cells = (labels.shape[1] // networks.cell, labels.shape[2] // networks.cell)
        noise = starting_noise(seeds, (networks.unet.config.in_channels, *cells)).to(networks.device)
        text = torch.stack([self._text([""] * len(prompts)), self._text(prompts)])
        random = generators([derive_seed(seed, "steps") for seed in seeds])
        condition = networks.condition(labels)
        latents = denoise(networks, noise, condition, text, self._config, random=random, window_batch=self._images)
        decode = self._decoded.parts(lambda part: networks.decode(latents[part], part.start).numpy(), len(latents))
        images = np.concatenate(list(decode))
        if self._config.fusion is None:
            return images
        return fuse(networks, images, labels, text, seeds, self._config, window_batch=self._windows)

    def _unusable(self, request: GenerationRequest, what: str) -> UserError:
        config = self._config
        return UserError(
            f"the image that {config.weights_name} paints for request {request.id} {what}: lower generation.guidance"
            f" (now {config.guidance:g}), set generation.precision to fp32 (now {config.precision}), or take other"
            " weights: a training may have diverged"
        )

    def _text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings (B, tokens, D) of the prompts, each embedded alone."""
        embedded = []
        for prompt in prompts:
            if prompt not in self._texts:
                self._texts[prompt] = self._networks.embed([prompt])[0]
            self._texts.move_to_end(prompt)
            embedded.append(self._texts[prompt])
            if len(self._texts) * embedded[-1].nbytes > KEPT_TEXTS:
                self._texts.popitem(last=False)
        return torch.stack(embedded)


def check_grid(config: GenerationConfig, networks: GeneratorNetworks) -> None:
    """UserError unless the networks can see images, and windows, of the sizes that the config asks for."""
    grain = networks.cell * networks.grain
    if any(side % grain for side in config.size):
        raise UserError(f"generation.size is {list(config.size)} px, wanted multiples of {grain} px: round both sides")
    if config.fusion is not None:
        window = config.fusion.window or networks.trained_cells
        if any(side % networks.grain for side in window):
            raise UserError(
                f"generation.fusion.window is {list(window)} cells, wanted multiples of {networks.grain}:"
                " round both sides"
            )
        canvas = [side * config.fusion.upscale // networks.cell for side in config.size]
        grid((canvas[0], canvas[1]), window, config.fusion.stride)  # checks the stride
