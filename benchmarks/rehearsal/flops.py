"""FLOPs of an experiment's parts, and the GPU memory that they would take, counted on networks without weights."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial

import numpy as np

from evaluation.cost import scored_image
from flows import stages
from flows.run import Run
from generation.cost import GeneratorShapes, decoding, embedding, encoding, network_call, shapes_of
from generation.crops import LabelReader
from generation.folders import weights_folders
from generation.fusion import kept_cells, second_pass_windows
from generation.plan import read_plan
from pipeline.config.generation import GenerationConfig
from pipeline.config.training import Method, NetworkConfig, TrainingConfig
from pipeline.data.image_files import image_size
from pipeline.requests import GenerationRequest
from pipeline.work.cost import Cost
from training.cost import Size, prediction, segmenter_shape, training_step


def costs(run: Run) -> Iterator[tuple[str, Cost]]:
    """The cost of each part that computes with networks, by the name that `flows.recipes.recipes` has for it. The
    ways to count are those of `flexseg plan`; here they are given what this run does."""
    assert run.config.generation is not None
    shapes = shapes_of(weights_folders(run.config.generation.weights), run.config.generation)
    reader = LabelReader(run.source.scenes, run.config.generation.label_height)
    requests = read_plan(stages.planned(run).folder)
    yield "generated images", _sum(painting(shapes, run.config.generation, reader, request) for request in requests)
    section = run.config.training
    step, scored = cache(_step), cache(partial(scoring, run))  # most methods share them
    for seed in section.seeds:
        for name, method in section.methods.items():
            own = section.of(method)
            # what else a method changes does not count
            counts = Method(shade=method.shade, feature_distance=method.feature_distance).model_dump_json()
            cost = step(own.model_dump_json(exclude={"gap", "has", "ube", "generated_limit"}), counts)
            yield f"segmenter {name}, seed {seed}", cost.times(own.iterations)
            yield f"evaluation {name}, seed {seed}", scored(own.network)


def scoring(run: Run, network: NetworkConfig) -> Cost:
    """All images of all targets, one at a time."""
    call = cache(partial(prediction, segmenter_shape(network)))
    return _sum(
        scored_image(run.config.evaluation, domain.name, image_size(scene.label, "label"), 1, call)
        for domain in run.targets
        for scene in domain.scenes
    )


def _step(config: str, method: str) -> Cost:
    """One iteration; sections as JSON, which can be told apart by a cache."""
    return training_step(TrainingConfig.model_validate_json(config), Method.model_validate_json(method))


def painting(
    shapes: GeneratorShapes, config: GenerationConfig, reader: LabelReader, request: GenerationRequest
) -> Cost:
    """One image, with the windows that its label map needs."""
    label = reader.crop(request.source, request.box)
    cells = (label.shape[0] // shapes.cell, label.shape[1] // shapes.cell)
    cost = passing(shapes, config, [cells]).then(decoding(shapes, 1, cells))
    if (fusion := config.fusion) is None:
        return cost
    canvas = (cells[0] * fusion.upscale, cells[1] * fusion.upscale)
    free = ~kept_cells(label, canvas, fusion)
    windows = second_pass_windows(free[np.newaxis], shapes.trained_cells, fusion)
    cost = cost.then(passing(shapes, config, [(window.height, window.width) for window in windows]))
    return cost.then(encoding(shapes, 1, canvas)).then(decoding(shapes, 1, canvas))


def passing(shapes: GeneratorShapes, config: GenerationConfig, windows: Sequence[Size]) -> Cost:
    """All steps of a pass over windows of these sizes in cells, the memory that of all of them at once."""
    halves = 2 if config.guidance != 1 else 1
    return _sum(
        network_call(shapes, count, window, halves=halves).times(config.steps).then(embedding(shapes, count, window))
        for window, count in Counter(windows).items()
    )


def _sum(parts: Iterable[Cost]) -> Cost:
    whole = Cost(0, 0)
    for part in parts:
        whole = whole.then(part)
    return whole
