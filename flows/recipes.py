"""What each stage's artifact is made from: all that its key depends on. Computing a key builds nothing.

A stage's version is raised by hand, with its reason, when the same config must give other bytes.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from flows.frozen import settings
from flows.run import WORLD, Recipe, Run
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.generation import AlignmentConfig, GenerationConfig
from pipeline.config.toytown import ToyTown
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.alignment_scores import has_scores
from pipeline.errors import UserError
from pipeline.store.artifacts import Stage
from pipeline.store.building import Settings
from training.pretrained_encoders import is_commit

LABELS = Stage("labels", 2)  # 2: also of shrunk label maps, with what looks wrong in them
PLANNED = Stage("plan", 3)  # 3: crops are centered on the class that is asked for
GENERATED = Stage("generated", 4)  # 4: such crops; fusion paints ignored regions anew
ALIGNMENT = Stage("alignment", 1)
SEGMENTER = Stage("segmenter", 5)  # 5: an antialiased crop is computed alone: a step of 255 may differ
EVALUATION = Stage("evaluation", 4)  # 4: evaluation.json has a schema version; files are named by safe stems
# 3: report.json has a schema version; alignment has a stage of its own; tests speak of seeds and images
REPORT = Stage("report", 3)

SECTIONS: dict[Stage, tuple[type[BaseModel], ...]] = {
    WORLD: (ToyTown,),
    PLANNED: (GenerationConfig,),
    GENERATED: (GenerationConfig,),
    ALIGNMENT: (AlignmentConfig,),
    SEGMENTER: (TrainingConfig, Method),
    EVALUATION: (EvaluationConfig,),
}
"""The sections that the keys of each stage are made from; `flows/defaults` holds their frozen defaults."""


def class_statistics_recipe(run: Run) -> Recipe:
    """Class statistics depend on the source's label maps, and on the height that the painting shrinks them to."""
    height = run.config.generation.label_height if run.config.generation else None
    return Recipe(LABELS, Settings.whole({"height": height}), {"source": run.source.labels_key})


def plan_recipe(run: Run) -> Recipe:
    """A plan depends on the fields of the generation section that it reads and on the source's label maps."""
    from generation.plan import DEPENDS_ON

    without = set(GenerationConfig.model_fields) - DEPENDS_ON
    return Recipe(PLANNED, settings(PLANNED, run.generation, without=without), {"source": run.source.labels_key})


def generated_recipe(run: Run) -> Recipe:
    """Generated images depend on the generation section, the weights' content and the source's label maps."""
    config = settings(GENERATED, run.generation, without={"weights", "lora"})
    inputs = {"weights": run.weights_key, "source": run.source.labels_key}
    if run.lora_key is not None:
        inputs["lora"] = run.lora_key
    return Recipe(GENERATED, config, inputs)


def alignment_recipe(run: Run, data_set: str) -> Recipe:
    """Alignment scores depend on their section, the generated images (`data_set` is their key or fingerprint) and what
    a learned detector's weights are: a folder's content, or the commit of the Hub's repository."""
    section, inputs = run.config.alignment, {"generated": data_set}
    if section.detector == "canny":
        return Recipe(ALIGNMENT, settings(ALIGNMENT, section, without={"weights"}), inputs)
    from generation.alignment import detector_commit

    local = Path(section.weights).is_dir()
    weights = run.encoder_key(section.weights) if local else detector_commit(section)
    if weights is not None:
        inputs["weights"] = weights
    return Recipe(ALIGNMENT, settings(ALIGNMENT, section, without={"weights"} if local else ()), inputs)


def segmenter_settings(section: TrainingConfig, method: Method, seed: int, *, local: bool = False) -> Settings:
    """The training section as a method changes it, the method and the seed. The method's name does not count, nor do
    the other methods and seeds, nor where in the config a value was set, nor, if the encoder's weights are `local`,
    in which folder they lie."""
    row = method.model_copy(update={"training": {}})
    made = settings(SEGMENTER, section.of(method), without={"methods", "seeds"}, method=row, seed=seed)
    network = made.differing.get("network", {})
    if not local or "pretrained" not in network:
        return made
    return made._replace(
        differing={**made.differing, "network": {name: v for name, v in network.items() if name != "pretrained"}}
    )


def method_of(run: Run, name: str) -> Method:
    """The method of that name. UserError if the config has none."""
    methods = run.config.training.methods
    if name not in methods:
        raise UserError(f"no method {name!r} in this config: choose one of {', '.join(methods)}")
    return methods[name]


def segmenter_recipe(run: Run, method: str, seed: int) -> Recipe:
    """A segmenter depends on its settings, the source, the folder of a pretrained encoder, and the generated images if
    the method uses them, with their alignment scores if it chooses by them."""
    section, row = run.config.training, method_of(run, method)
    own = section.of(row)
    inputs = {"source": run.source.key}
    if (encoder := run.encoder_key(own.network.pretrained)) is not None:
        inputs["encoder"] = encoder
    if row.generated:
        if run.config.generation is not None:
            inputs["generated"] = run.key(generated_recipe(run))
        inputs |= run.generated_keys
        if own.minimum_alignment > 0:  # else the scores are not read
            inputs |= {f"{name}, alignment": run.key(alignment_recipe(run, inputs[name])) for name in unscored(run)}
    local = encoder is not None and not is_commit(encoder)
    return Recipe(SEGMENTER, segmenter_settings(section, row, seed, local=local), inputs)


def unscored(run: Run) -> dict[str, Path | None]:
    """The generated data sets that hold no alignment scores, by their names among a segmenter's inputs: the run's own
    (None), and folders of data.generated."""
    own: dict[str, Path | None] = {} if run.config.generation is None else {"generated": None}
    given = zip(run.generated_keys, run.config.data.generated, strict=True)
    return own | {name: folder for name, folder in given if not has_scores(folder)}


def evaluation_recipe(run: Run, model: str) -> Recipe:
    """An evaluation depends on its section, the segmenter (`model` is its key or fingerprint) and the targets."""
    targets = {f"target {domain.name}": domain.key for domain in run.targets}
    config = settings(EVALUATION, run.config.evaluation, without={"models", "baseline"})
    return Recipe(EVALUATION, config, {"segmenter": model, **targets})


def recipes(run: Run) -> Iterator[tuple[str, Recipe]]:
    """(what it is, recipe) of everything that the experiment makes from its data, in order, but for the report.

    Label maps without photographs can be painted but not trained on; without targets nothing is evaluated.
    """
    if run.config.generation is not None:
        images = generated_recipe(run)
        yield "generated images", images
        yield "alignment scores", alignment_recipe(run, run.key(images))
    if not run.has_images or not run.has_targets:
        return
    for seed in run.config.training.seeds:
        for method in run.config.training.methods:
            recipe = segmenter_recipe(run, method, seed)
            yield f"segmenter {method}, seed {seed}", recipe
            yield f"evaluation {method}, seed {seed}", evaluation_recipe(run, run.key(recipe))
