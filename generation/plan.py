"""The plan: every request of a generated data set, decided and written down before any image is made."""

from collections.abc import Sequence

import numpy as np

from generation.crops import LabelReader, draw_crop
from pipeline.config.generation import GenerationConfig
from pipeline.datasets import Scene
from pipeline.errors import UserError
from pipeline.labels import CLASS_NAMES, IGNORE, NUM_CLASSES
from pipeline.progress import Track, silent
from pipeline.rare_classes import rare_class_probabilities
from pipeline.records import GenerationRequest
from pipeline.seeding import generator


def plan(config: GenerationConfig, scenes: Sequence[Scene], *, progress: Track = silent) -> list[GenerationRequest]:
    """The requests of `config` on the label maps of `scenes`, the same list on every machine.

    Class, label map and crop of each request are drawn by rare-class sampling, from a generator of its own, so that
    asking for more images of one condition changes no other request. Raises UserError where the label maps are
    smaller than the crop or hold no class at all.
    """
    reader = LabelReader(scenes, config.label_height, keep=len(scenes) if config.label_height else 256)
    pixels = np.stack(
        [
            np.bincount(reader.read(scene.id).ravel(), minlength=IGNORE + 1)[:NUM_CLASSES]
            for scene in progress(scenes, total=len(scenes), description="Counting classes")
        ]
    )
    if not pixels.any():
        raise UserError(
            f"none of the {len(scenes)} label maps holds a class, all pixels are ignored: mend 'ids' of data.source"
        )
    names = [(condition, k) for condition, count in config.counts.items() for k in range(count)]
    if not names:
        raise UserError("generation.counts asks for 0 images: give at least one condition a count")
    bar = progress(names, total=len(names), description="Planning")
    return [_request(config, scenes, pixels, reader, name) for name in bar]


def _request(
    config: GenerationConfig,
    scenes: Sequence[Scene],
    pixels: np.ndarray,
    reader: LabelReader,
    name: tuple[str, int],
) -> GenerationRequest:
    condition, k = name
    rng = generator("plan", config.seed, condition, k)
    eligible = pixels > config.rare_class_pixels
    if not eligible.any():  # maps with less than that of every class: any occurrence counts
        eligible = pixels > 0
    probabilities = rare_class_probabilities(pixels.sum(0), config.rare_class_temperature, np.any(eligible, axis=0))
    class_id = int(rng.choice(NUM_CLASSES, p=probabilities))
    scene = scenes[int(rng.choice(np.flatnonzero(eligible[:, class_id])))]
    label = reader.read(scene.id)
    box = draw_crop(label, config.size, class_id, config.rare_class_pixels / 2, rng)
    prompt = write_prompt(config, reader.crop(scene.id, box), condition)
    return GenerationRequest(f"{condition}-{k:06d}", scene.id, box, class_id, condition, prompt, config.seed)


def write_prompt(config: GenerationConfig, label: np.ndarray, condition: str) -> str:
    """The prompt of a crop: the names of the classes that it shows, and the weather unless `condition` is plain."""
    present = [CLASS_NAMES[c] for c in np.unique(label) if c != IGNORE]
    template = config.plain_prompt if condition == "plain" else config.prompt
    return template.format(classes=", ".join(present), weather=condition)
