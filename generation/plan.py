"""The plan: every request of a generated data set, decided and written down before any image is made."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from generation.crops import check_crops_fit, draw_crop, shrink
from generation.prompts import fill_prompt, template_of
from pipeline.config.generation import GenerationConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import CLASS_NAMES, NUM_CLASSES, load_label_map
from pipeline.data.rare_classes import rare_class_probabilities
from pipeline.data.resizing import cut
from pipeline.data.statistics import count_labels
from pipeline.errors import UserError
from pipeline.requests import Box, GenerationRequest
from pipeline.seeding import random_generator
from pipeline.store.records import DamagedError, StoredRecord, json_object, parse_record, read_file
from pipeline.work.progress import Track, silent
from pipeline.work.threads import CORES, in_order

PLAN = "plan.jsonl"
Pixels = Annotated[int, Field(ge=0, le=2**31)]


class _PlanBox(StoredRecord):
    """A `Box` in a plan's file."""

    top: Pixels
    left: Pixels
    height: Pixels
    width: Pixels


class _PlanLine(StoredRecord):
    """A `GenerationRequest` in a plan's file."""

    id: str
    source: str
    box: _PlanBox
    class_id: Annotated[int, Field(ge=0, lt=NUM_CLASSES)]
    condition: str
    prompt: str
    plan_seed: int


DEPENDS_ON = {
    "counts", "after", "prompt", "plain_prompt", "class_separator", "conditions", "classes", "size", "label_height",
    "rare_class_temperature", "rare_class_pixels", "seed",
}  # fmt: skip
"""The fields of the generation section that decide the plan."""


def plan(
    config: GenerationConfig, scenes: Sequence[Scene], *, pixels: np.ndarray | None = None, progress: Track = silent
) -> list[GenerationRequest]:
    """The requests of `config` on the label maps of `scenes`, the same list on every machine.

    Class, label map and crop of each request are drawn by rare-class sampling, from a generator of its own, so that
    asking for more images of one condition changes no other request, and 8 of it are the same as 4 and then 4 `after`
    4. `pixels` (N, 19) are the class counts of the label maps as shrunk to `config.label_height`; where they are not
    given, every label map is read. Raises UserError where one is bad or smaller than the crop, where none holds a class
    (or one that is asked for), and where no image is asked for.
    """
    # sorted, as the order of the conditions does not enter the key
    first = config.after
    names = [(c, first.get(c, 0) + k) for c, count in sorted(config.counts.items()) for k in range(count)]
    if not names:
        raise UserError("generation.counts asks for 0 images: give at least one condition a count")
    check_crops_fit(scenes, config.size, config.label_height)
    if pixels is None:
        pixels = count_labels(scenes, config.label_height, progress).shrunk
    if not pixels.any():
        raise UserError(
            f"none of the {len(scenes)} label maps holds a class, all pixels are ignored: correct 'ids' of data.source"
        )
    eligible = pixels > config.rare_class_pixels
    if not eligible.any():  # maps with less than that of every class: any occurrence counts
        eligible = pixels > 0
    probabilities = class_probabilities(config, pixels.sum(0), np.any(eligible, axis=0))

    asked: dict[int, list[_Asked]] = {}
    for place, (condition, k) in enumerate(names):
        rng = random_generator("plan", config.seed, condition, k)
        class_id = int(rng.choice(NUM_CLASSES, p=probabilities))
        index = int(rng.choice(np.flatnonzero(eligible[:, class_id])))
        asked.setdefault(index, []).append(_Asked(place, condition, k, class_id, rng))

    def of_map(index: int) -> list[tuple[int, GenerationRequest]]:
        scene = scenes[index]
        label = shrink(load_label_map(scene.label, scene.ids), config.label_height)
        return [(one.place, _planned(config, one, scene.id, label)) for one in asked[index]]

    # By label map, so that each is read once. Each request goes on drawing from a generator of its own, so neither that
    # order nor the threads' matters.
    planning = chain.from_iterable(in_order(of_map, sorted(asked), ahead=4 * CORES, threads=CORES))
    placed = dict(progress(planning, total=len(names), description="Planning"))
    return [placed[place] for place in range(len(names))]


class _Asked(NamedTuple):
    """A request whose class and label map are drawn: its place in the plan, and the generator that draws its crop."""

    place: int
    condition: str
    k: int
    class_id: int
    rng: np.random.Generator


def _planned(config: GenerationConfig, asked: _Asked, source: str, label: np.ndarray) -> GenerationRequest:
    box = draw_crop(label, config.size, asked.class_id, asked.rng)
    _, template = template_of(config, asked.condition)
    prompt = fill_prompt(template, cut(label, box), config.class_separator, asked.condition)
    name = f"{asked.condition}-{asked.k:06d}"
    return GenerationRequest(name, source, box, asked.class_id, asked.condition, prompt, config.seed)


def class_probabilities(config: GenerationConfig, pixels: np.ndarray, available: np.ndarray) -> np.ndarray:
    """How likely a request asks for each class, (19,): the shares that `config.classes` gives, and rare-class sampling
    over the other classes for the rest. `pixels` (19,) are the data set's, `available` (19,) the classes with a map.
    """
    named = np.array([name in config.classes for name in CLASS_NAMES])
    shares = np.array([config.classes.get(name, 0.0) for name in CLASS_NAMES])
    rest = 1 - shares.sum()
    if missing := [CLASS_NAMES[c] for c in np.flatnonzero((shares > 0) & ~available)]:
        raise UserError(
            f"generation.classes asks for {missing[0]!r}, but no label map has more than {config.rare_class_pixels} px"
            " of it: leave it out, or lower generation.rare_class_pixels"
        )
    others = available & ~named
    if rest > 1e-9 and not others.any():
        raise UserError(
            f"generation.classes gives shares of {1 - rest:g} in all and no other class can be asked for: let them sum"
            " to 1"
        )
    if others.any():
        shares = shares + max(rest, 0.0) * rare_class_probabilities(pixels, config.rare_class_temperature, others)
    return np.asarray(shares / shares.sum())


def plan_text(requests: Sequence[GenerationRequest]) -> str:
    """What `plan.jsonl` holds: a line per request."""
    return "".join(json.dumps(asdict(request)) + "\n" for request in requests)


def read_plan(folder: Path) -> list[GenerationRequest]:
    """The requests that `plan.jsonl` in `folder` holds. UserError, naming the line, where it is damaged."""
    path = folder / PLAN
    try:
        *lines, rest = read_file(path).split(b"\n")
        if rest:
            raise DamagedError(f"its line {len(lines) + 1} has no end")
        return [_request(line, number) for number, line in enumerate(lines, 1)]
    except DamagedError as error:
        raise UserError(f"the plan {path} is damaged, {error}: delete the folder {folder} and run again") from error


def _request(line: bytes, number: int) -> GenerationRequest:
    try:
        fields = parse_record(_PlanLine, json_object(line)).model_dump()
    except DamagedError as error:
        raise DamagedError(f"line {number}: {error}") from error
    return GenerationRequest(**{**fields, "box": Box(**fields["box"])})
