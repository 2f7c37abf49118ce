"""The stages of an experiment. Each is a recipe (what its artifact is made from) and a build, around the store.

Nothing here knows Prefect: the flow and the single commands call the same functions. Packages that take seconds to
import are imported where a stage is really built.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.executors import check_cluster, training, units
from flows.run import Domain, Recipe, Run
from flows.segmenters import load_predict, other_models
from generation.folders import weights_folders
from generation.lora import lora_file, lora_fingerprint
from pipeline.data.datasets import class_pixels
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, Stage
from pipeline.store.manifest import provenance
from training.pretrained_encoders import check_pretrained

LABELS = Stage("labels", 1)
PLANNED = Stage("plan", 1)
GENERATED = Stage("generated", 2)  # 2: alignment beside its control; conditions are embedded once per image
SEGMENTER = Stage("segmenter", 2)  # 2: boundary cells drawn over all ranks
EVALUATION = Stage("evaluation", 4)  # 4: evaluation.json has a schema version; files are named by safe stems
REPORT = Stage("report", 3)  # 3: report.json has a schema version


def check(run: Run) -> None:
    """Everything that could fail hours later and can be seen now. Raises UserError."""
    config = run.config
    run.store.check()
    if config.generation is not None:
        _ = run.weights_key
        if config.generation.lora is not None:
            lora_file(config.generation.lora)
    elif not config.data.generated and (needy := [n for n, m in config.training.methods.items() if m.generated]):
        raise UserError(
            f"method {needy[0]!r} wants generated images: add a 'generation' section, name data sets in"
            " 'data.generated', or set its 'generated' to false"
        )
    _ = run.generated_keys
    if config.machine.executor == "ray":
        check_cluster(config.machine)
    elif config.machine.device == "cuda":
        from pipeline.work.devices import device_of

        device_of(config.machine)
    for method in config.training.methods.values():
        check_pretrained(config.training.of(method).network)
    other_models(run)
    if config.data.toytown is None:  # else there is nothing on disk yet
        _ = run.training_rows
        for domain in run.targets:
            check_images(domain)


def check_images(domain: Domain) -> None:
    """The domain is more than label maps. Raises UserError. Single bad files are skipped and listed when it is read."""
    if domain.scenes[0].image is None:
        raise UserError(f"{domain.name}: training and evaluation need images: set 'images' of this data set")


def world(run: Run) -> Artifact | None:
    """Toy town, rendered, if that is the experiment's data."""
    return run.world


def labels(run: Run) -> Artifact:
    """The class statistics of the source, before it is trained on. Says which pairs are left out of training."""
    check_images(run.source)
    scenes, used = run.source.scenes, set(run.training_rows)
    if left_out := [scene.id for row, scene in enumerate(scenes) if row not in used]:
        names = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        print(
            f"flexseg: {run.source.name}: {len(left_out)} of {len(scenes)} scenes are left out of training, their image"
            f" and label differ in size: {names}",
            file=sys.stderr,
        )
    return class_statistics(run, run.source)


def class_statistics(run: Run, domain: Domain) -> Artifact:
    """`class_pixels.npy` (N, 19) of a domain. Every label map is read for it: a bad one is found before long work."""

    def build(folder: Path) -> None:
        np.save(folder / "class_pixels.npy", class_pixels(domain.scenes, run.progress))

    return run.store.get_or_build(*Recipe(LABELS, {"domain": domain.name}, {"scenes": domain.key}), build)


def planned(run: Run) -> Artifact:
    """`plan.jsonl`, every image that is to be painted. Every label map is read for it."""
    from generation.plan import DEPENDS_ON, PLAN, plan, plan_text

    section = run.generation.model_dump(mode="json", include=DEPENDS_ON)

    def build(folder: Path) -> None:
        requests = plan(run.generation, run.source.scenes, progress=run.progress)
        (folder / PLAN).write_text(plan_text(requests), encoding="utf-8")

    return run.store.get_or_build(*Recipe(PLANNED, section, {"source": run.source.key}), build)


def generated_recipe(run: Run) -> Recipe:
    """Generated images depend on the generation section, the weights' content and the source's label maps."""
    config = run.generation.model_dump(mode="json", exclude={"weights", "lora"})
    inputs = {"weights": run.weights_key, "source": run.source.key}
    if run.generation.lora is not None:
        inputs["lora"] = lora_fingerprint(run.generation.lora)
    return Recipe(GENERATED, config, inputs)


def generated(run: Run) -> Artifact:
    """The stylized images, as a Hugging Face dataset folder."""

    def build(folder: Path) -> None:
        from generation.generate import generate
        from generation.plan import read_plan

        requests = read_plan(planned(run).folder)
        machine, scenes = run.config.machine, run.source.scenes
        inputs = [scenes[0].label, *weights_folders(run.generation.weights).values()]
        if run.generation.lora is not None:
            inputs.append(lora_file(run.generation.lora))
        execute = units(machine, inputs=inputs)
        generate(run.generation, requests, scenes, folder, machine=machine, progress=run.progress, execute=execute)

    return run.store.get_or_build(*generated_recipe(run), build)


def join_generation(run: Run) -> None:
    """Help another process, perhaps on another machine with the same store, that makes the generated images."""
    from generation.generate import join

    recipe = generated_recipe(run)
    if run.store.find(*recipe) is None:
        folder, machine = run.store.partial(*recipe), run.config.machine
        join(run.generation, run.source.scenes, folder, machine=machine, progress=run.progress)


def segmenter_recipe(run: Run, method: str, seed: int) -> Recipe:
    """A segmenter depends on the training section as its method changes it, on the method and the seed, the source, the
    folder of a pretrained encoder, and the generated images if the method uses them. The method's name does not count,
    nor do the other methods and seeds, nor where in the config a value was set."""
    section = run.config.training
    if method not in section.methods:
        raise UserError(f"no method {method!r} in this config: choose one of {', '.join(section.methods)}")
    row = section.methods[method]
    own = section.of(row)
    config = {
        **own.model_dump(mode="json", exclude={"methods", "seeds"}),
        "method": row.model_dump(mode="json", exclude={"training"}),
        "seed": seed,
    }
    inputs = {"source": run.source.key}
    if (encoder := run.encoder_key(own.network.pretrained)) is not None:
        inputs["encoder"] = encoder
    if row.generated:
        if run.config.generation is not None:
            inputs["generated"] = run.key(generated_recipe(run))
        inputs |= run.generated_keys
    return Recipe(SEGMENTER, config, inputs)


def segmenter(run: Run, method: str, seed: int, images: Artifact | None) -> Artifact:
    """A segmenter trained by one method from one seed. `images` are the generated ones, for methods that use them."""
    recipe = segmenter_recipe(run, method, seed)

    def build(folder: Path) -> None:
        from training.train import train

        section = run.config.training
        own = [images.folder] if images is not None else []
        train(
            section,
            section.methods[method],
            seed,
            [run.source.scenes[row] for row in run.training_rows],
            [*own, *run.config.data.generated],
            folder,
            machine=run.config.machine,
            pixels=np.load(class_statistics(run, run.source).folder / "class_pixels.npy")[run.training_rows],
            progress=run.progress,
            launch=training(run.config.machine),
        )

    return run.store.get_or_build(*recipe, build)


def evaluation_recipe(run: Run, model: str) -> Recipe:
    """An evaluation depends on its section, the segmenter (`model` is its key or fingerprint) and the targets."""
    targets = {f"target {domain.name}": domain.key for domain in run.targets}
    config = run.config.evaluation.model_dump(mode="json", exclude={"models", "baseline"})
    return Recipe(EVALUATION, config, {"segmenter": model, **targets})


def evaluation(run: Run, model: str, folder_of_model: Path) -> Artifact:
    """Scores of a segmenter on every target."""

    def build(folder: Path) -> None:
        from evaluation.evaluate import evaluate

        section, machine = run.config.evaluation, run.config.machine
        load = partial(load_predict, folder_of_model, section)
        domains = {domain.name: domain.scenes for domain in run.targets}
        inputs = [folder_of_model, *(scenes[0].label for scenes in domains.values())]
        execute = units(machine, inputs=inputs, most_on_cpu=1)  # whose threads use all cores
        evaluate(load, domains, section, folder, machine=machine, progress=run.progress, execute=execute)

    return run.store.get_or_build(*evaluation_recipe(run, model), build)


class Result(NamedTuple):
    """One row of the report: a segmenter (None: trained elsewhere) and its scores."""

    method: str
    seed: int
    segmenter: Artifact | None
    evaluation: Artifact


def report(run: Run, images: Artifact | None, results: Sequence[Result]) -> Artifact:
    """`report.json`, `index.html` and figures of all results."""
    both = [(result, artifact) for result in results for artifact in result[2:]]
    named = {"generated": images, "world": run.world} | {f"{r.method} {r.seed} {a.kind}": a for r, a in both if a}
    made = {name: artifact for name, artifact in named.items() if artifact is not None}
    inputs = {name: artifact.key for name, artifact in made.items()}
    baseline = run.config.evaluation.baseline

    def build(folder: Path) -> None:
        from evaluation.report import build_report
        from evaluation.summary import ReportContent, TrainedModel

        content = ReportContent(
            name=run.config.name,
            models=[
                TrainedModel(r.method, r.seed, r.evaluation.folder, r.segmenter.folder if r.segmenter else None)
                for r in results
            ],
            domains={domain.name: domain.scenes for domain in run.targets},
            generated=images.folder if images else None,
            seconds=seconds_per_stage(made.values()),
            provenance=_provenance(run, made),
            baseline=baseline,
        )
        build_report(content, folder)

    return run.store.get_or_build(*Recipe(REPORT, {"name": run.config.name, "baseline": baseline}, inputs), build)


def _provenance(run: Run, made: Mapping[str, Artifact]) -> dict[str, Any]:
    """What could explain a number of the report: code, machines, data, the key of every artifact, and the config."""
    machines = {name: artifact.manifest.hardware for name, artifact in made.items()}
    return provenance() | {
        "Data": {d.name: f"{len(d.scenes):,} scenes, fingerprint {d.key}" for d in (run.source, *run.targets)},
        "Artifacts": {name: f"key {artifact.key}, made on {machines[name]}" for name, artifact in made.items()},
        "Config": run.config.model_dump(mode="json", exclude={"machine", "weights"}),
    }


def seconds_per_stage(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """How long making the artifacts took, by kind, whenever that was."""
    seconds: dict[str, float] = {}
    for artifact in artifacts:
        seconds[artifact.kind] = seconds.get(artifact.kind, 0.0) + artifact.manifest.seconds
    return seconds


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
