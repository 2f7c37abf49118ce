"""The stages of an experiment. Each is a recipe (what its artifact is made from) and a build, around the store.

Nothing here knows Prefect: the flow and the single commands call the same functions. Packages that take seconds to
import are imported where a stage is really built.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.run import Domain, Recipe, Run
from pipeline.datasets import check_pair, class_pixels
from pipeline.errors import UserError
from pipeline.manifest import canonical_digest, file_table, provenance
from pipeline.store import Artifact, Stage

LABELS = Stage("labels", 1)
GENERATED = Stage("generated", 1)
SEGMENTER = Stage("segmenter", 1)
EVALUATION = Stage("evaluation", 1)
REPORT = Stage("report", 1)


def check(run: Run) -> None:
    """Everything that could fail hours later and can be seen now. Raises UserError."""
    config = run.config
    if config.generation is not None:
        _ = run.weights_key
    elif needy := [name for name, method in config.training.methods.items() if method.generated]:
        raise UserError(
            f"method {needy[0]!r} wants generated images: add a 'generation' section or set its 'generated' to false"
        )
    if config.machine.device == "cuda":
        from pipeline.devices import device_of

        device_of(config.machine)
    if config.data.toytown is None:
        for domain in (run.source, *run.targets):
            check_images(domain)


def check_images(domain: Domain) -> None:
    """Each scene of the domain has an image, of its label's size. Raises UserError."""
    for scene in domain.scenes:
        if scene.image is None:
            raise UserError(f"{domain.name}: training and evaluation need images: set 'images' of this data set")
        check_pair(scene)


def world(run: Run) -> Artifact | None:
    """Toy town, rendered, if that is the experiment's data."""
    return run.world


def labels(run: Run) -> list[Artifact]:
    """The class statistics of every domain."""
    return [class_statistics(run, domain) for domain in (run.source, *run.targets)]


def class_statistics(run: Run, domain: Domain) -> Artifact:
    """`class_pixels.npy` (N, 19) of a domain. Every label map is read for it: a bad one is found before long work."""

    def build(folder: Path) -> None:
        np.save(folder / "class_pixels.npy", class_pixels(domain.scenes, run.progress))

    return run.store.get_or_build(*Recipe(LABELS, {"domain": domain.name}, {"scenes": domain.key}), build)


def generated_recipe(run: Run) -> Recipe:
    """Generated images depend on the generation section, the weights' content and the source's label maps."""
    config = run.generation.model_dump(mode="json", exclude={"weights"})
    return Recipe(GENERATED, config, {"weights": run.weights_key, "source": run.source.key})


def generated(run: Run) -> Artifact:
    """The stylized images, as a Hugging Face dataset folder."""

    def build(folder: Path) -> None:
        from generation.generate import generate
        from generation.plan import plan

        section, scenes = run.generation, run.source.scenes
        requests = plan(section, scenes, progress=run.progress)
        generate(section, requests, scenes, folder, machine=run.config.machine, progress=run.progress)

    return run.store.get_or_build(*generated_recipe(run), build)


def segmenter_recipe(run: Run, method: str, seed: int) -> Recipe:
    """A segmenter depends on the training section, its method and seed, the source, and the generated images if the
    method uses them. The method's name does not count, nor do the other methods and seeds."""
    section = run.config.training
    if method not in section.methods:
        raise UserError(f"no method {method!r} in this config: choose one of {', '.join(section.methods)}")
    config = {
        **section.model_dump(mode="json", exclude={"methods", "seeds"}),
        "method": section.methods[method].model_dump(mode="json"),
        "seed": seed,
    }
    inputs = {"source": run.source.key}
    if section.methods[method].generated:
        inputs["generated"] = run.key(generated_recipe(run))
    return Recipe(SEGMENTER, config, inputs)


def segmenter(run: Run, method: str, seed: int, images: Artifact | None) -> Artifact:
    """A segmenter trained by one method from one seed. `images` are the generated ones, for methods that use them."""
    recipe = segmenter_recipe(run, method, seed)
    folder_of_images = images.folder if images is not None and "generated" in recipe.inputs else None

    def build(folder: Path) -> None:
        from training.train import train

        section, machine = run.config.training, run.config.machine
        scenes = run.source.scenes
        train(
            section,
            section.methods[method],
            seed,
            scenes,
            folder_of_images,
            folder,
            machine=machine,
            progress=run.progress,
        )

    return run.store.get_or_build(*recipe, build)


def evaluation_recipe(run: Run, model: str) -> Recipe:
    """An evaluation depends on its section, the segmenter (`model` is its key or fingerprint) and the targets."""
    targets = {f"target {domain.name}": domain.key for domain in run.targets}
    return Recipe(EVALUATION, run.config.evaluation, {"segmenter": model, **targets})


def evaluation(run: Run, model: str, folder_of_model: Path) -> Artifact:
    """Scores of a segmenter on every target."""

    def build(folder: Path) -> None:
        from evaluation.evaluate import evaluate
        from pipeline.devices import device_of
        from training.predict import predictor

        section = run.config.evaluation
        predict = predictor(folder_of_model, section.scale, str(device_of(run.config.machine)))
        evaluate(predict, {d.name: d.scenes for d in run.targets}, section, folder, progress=run.progress)

    return run.store.get_or_build(*evaluation_recipe(run, model), build)


class Result(NamedTuple):
    """One row of the report: a segmenter and its scores."""

    method: str
    seed: int
    segmenter: Artifact
    evaluation: Artifact


def report(run: Run, images: Artifact | None, results: Sequence[Result]) -> Artifact:
    """`report.json`, `index.html` and figures of all results."""
    made = {"generated": images, "world": run.world} | {
        f"{r.method} {r.seed} {a.kind}": a for r in results for a in r[2:]
    }
    inputs = {name: artifact.key for name, artifact in made.items() if artifact is not None}

    def build(folder: Path) -> None:
        from evaluation.report import build_report
        from evaluation.summary import ReportContent
        from evaluation.summary import Run as Row

        content = ReportContent(
            name=run.config.name,
            runs=[Row(r.method, r.seed, r.evaluation.folder, r.segmenter.folder) for r in results],
            domains={domain.name: domain.scenes for domain in run.targets},
            generated=images.folder if images else None,
            seconds=seconds_per_stage(artifact for artifact in made.values() if artifact is not None),
            provenance=provenance() | {"config": run.config.model_dump(mode="json", exclude={"machine", "weights"})},
        )
        build_report(content, folder)

    return run.store.get_or_build(*Recipe(REPORT, {"name": run.config.name}, inputs), build)


def seconds_per_stage(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """How long making the artifacts took, by kind, whenever that was."""
    seconds: dict[str, float] = {}
    for artifact in artifacts:
        seconds[artifact.kind] = seconds.get(artifact.kind, 0.0) + artifact.manifest["seconds"]
    return seconds


def find_model(run: Run, name: str) -> tuple[str, Path]:
    """(key or fingerprint, folder) of a segmenter that is named by its folder or by its key in the store."""
    folder = Path(name)
    if folder.is_dir():
        model = next((place for place in (folder / "segmenter", folder) if (place / "config.json").is_file()), None)
        if model is None:
            raise UserError(
                f"--model {name}: neither it nor its folder 'segmenter' holds a config.json; train a segmenter first"
            )
        return canonical_digest(file_table(model)), model
    artifact = run.store.open(name)
    if artifact.kind != SEGMENTER.name:
        raise UserError(
            f"--model {name} is a {artifact.kind!r} artifact, wanted a 'segmenter'; see the table of flexseg plan"
        )
    return artifact.key, artifact.folder / "segmenter"


def recipes(run: Run) -> Iterator[tuple[str, Recipe]]:
    """(what it is, recipe) of everything that the experiment makes from its data, in order.

    Label maps without photographs can be painted but not trained on; without targets nothing is evaluated.
    """
    if run.config.generation is not None:
        yield "generated images", generated_recipe(run)
    if run.source.scenes[0].image is None or not run.has_targets:
        return
    for seed in run.config.training.seeds:
        for method in run.config.training.methods:
            recipe = segmenter_recipe(run, method, seed)
            yield f"segmenter {method}, seed {seed}", recipe
            yield f"evaluation {method}, seed {seed}", evaluation_recipe(run, run.key(recipe))
