"""Multi-resolution latent fusion: a second pass over the enlarged image, window by window (DGInStyle sec. 3.3)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generation.components import large_components, to_cells
from generation.denoise import denoise
from generation.models import GeneratorNetworks
from generation.schedulers import Kept, draw, generators, starting_noise
from generation.windows import Window, grid, needed, sparse_cover
from pipeline.config.generation import FusionConfig, GenerationConfig
from pipeline.seeding import derive_seed
from pipeline.work.in_flight import InFlight


def fuse(
    networks: GeneratorNetworks,
    images: np.ndarray,
    labels: np.ndarray,
    text: Tensor,
    seeds: Sequence[int],
    config: GenerationConfig,
    *,
    window_batch: InFlight | int = 16,
) -> np.ndarray:
    """Images (B, H, W, 3) uint8 of a first pass, painted again at a higher resolution and shrunk back to (H, W).

    Each image is enlarged (Lanczos) and encoded. Small things are painted anew on the larger canvas by overlapping
    windows, each of a size that the networks know; cells of large connected components of `labels` (B, H, W) stay as
    the first pass made them. `text` (2, B, tokens, D) and `window_batch` as in `denoise`. All noise comes from the
    requests' `seeds`.
    """
    fusion = config.fusion or FusionConfig()
    small = (labels.shape[1], labels.shape[2])
    height, width = small[0] * fusion.upscale, small[1] * fusion.upscale
    canvas = (height // networks.cell, width // networks.cell)
    shape = (networks.unet.config.in_channels, *canvas)
    # The first pass, enlarged, is what the second one keeps; one image at a time here and below, since the VAE needs
    # gigabytes for each at this size.
    first = torch.cat([networks.encode(resize(image, (height, width))[None]) for image in images])
    # Large areas keep their style and cost nothing; what is small in the image is painted anew, with more cells.
    cells = np.stack([kept_cells(label, canvas, fusion) for label in labels])
    # The ControlNet sees the label map at the canvas's size: whole pixels, so repeating them is exact.
    large = labels.repeat(fusion.upscale, axis=1).repeat(fusion.upscale, axis=2)
    latents = denoise(
        networks,
        starting_noise([derive_seed(seed, "second pass") for seed in seeds], shape).to(networks.device),
        networks.condition(large),
        text,
        config,
        windows=second_pass_windows(~cells, networks.trained_cells, fusion),
        kept=Kept(
            first,
            torch.from_numpy(cells[:, None]).to(networks.device),
            kept_noise(seeds, shape, networks.device),
            fusion.kept_noise,
        ),
        random=generators([derive_seed(seed, "second pass, steps") for seed in seeds]),
        window_batch=window_batch,
    )
    return np.stack(
        [resize(networks.decode(one[None], first=row)[0].numpy(), small) for row, one in enumerate(latents)]
    )


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` (H, W, 3) uint8 at `size` (height, width), Lanczos."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def kept_cells(label: np.ndarray, canvas: tuple[int, int], fusion: FusionConfig) -> np.ndarray:
    """Cells (h, w) bool of the canvas that keep the first pass, for a label map (H, W)."""
    if fusion.large_component is None:
        return np.zeros(canvas, bool)
    return to_cells(large_components(label, fusion.large_component), canvas)


def second_pass_windows(free: np.ndarray, trained: tuple[int, int], fusion: FusionConfig) -> list[Window]:
    """The windows that paint the cells of `free` (B, h, w) bool; `trained` is the size that the U-Net knows, cells."""
    windows = []
    for image, cells in enumerate(free):
        every = grid(cells.shape, fusion.window or trained, fusion.stride, image)
        windows += needed(every, cells) if fusion.cover == "all" else sparse_cover(every, cells)
    return windows


def kept_noise(seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device) -> Iterator[Tensor]:
    """Noise (B, *shape) for what is kept, step after step, from a generator of its own for each image."""
    random = generators([derive_seed(seed, "kept") for seed in seeds])
    while True:
        yield draw(random, shape).to(device)
