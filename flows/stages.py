"""The stages of an experiment. Each is a recipe (what its artifact is made from) and a build, around the store.

Nothing here knows Prefect: the flow and the single commands call the same functions. Packages that take seconds to
import are imported where a stage is really built.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.data_stages import check_crop, check_images, class_statistics, training_pixels, warn_of_labels
from flows.executors import check_cluster, training, units
from flows.recipes import (
    ALIGNMENT,
    REPORT,
    alignment_recipe,
    evaluation_recipe,
    generated_recipe,
    plan_recipe,
    segmenter_recipe,
    unscored,
)
from flows.run import Recipe, Run
from flows.segmenters import load_predict
from generation.folders import weights_folders
from generation.lora import lora_file
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.machine import Machine
from pipeline.data.statistics import Statistics
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, ArtifactStore
from pipeline.store.building import Settings
from pipeline.store.inventory import manifests
from pipeline.store.manifest import provenance
from pipeline.work.progress import bar
from training.pretrained_encoders import check_pretrained
from training.processes import check_devices, check_processes


def check(run: Run) -> None:
    """Everything that could fail hours later and can be seen now. Raises UserError."""
    config = run.config
    run.store.check()
    if config.generation is not None:
        _ = run.weights_key, run.lora_key
        if config.alignment.detector != "canny":
            from generation.alignment import check_detector

            check_detector(config.alignment)
    elif not config.data.generated and (needy := [n for n, m in config.training.methods.items() if m.generated]):
        raise UserError(
            f"method {needy[0]!r} wants generated images: add a 'generation' section, name data sets in"
            " 'data.generated', or set its 'generated' to false"
        )
    _ = run.generated_keys
    if config.machine.executor == "ray":
        check_cluster(config.machine)
    elif config.machine.device == "cuda" or config.machine.processes > 1:
        check_devices(config.machine)
    for method in config.training.methods.values():
        section = config.training.of(method)
        check_processes(section, config.machine)
        check_pretrained(section.network)
    _ = run.other_models
    if config.data.toytown is None:  # else there is nothing on disk yet
        for name in config.training.methods:
            check_crop(run, name)
        for domain in run.targets:
            check_images(domain)


def world(run: Run) -> Artifact | None:
    """Toy town, rendered, if that is the experiment's data."""
    return run.render_world()


def planned(run: Run) -> Artifact:
    """`plan.jsonl`, every image that is to be painted. Every label map is read for it.

    UserError where the weights' tokenizer would cut a prompt.
    """
    from generation.plan import PLAN, plan, plan_text, read_plan
    from generation.prompts import check_prompts

    def build(folder: Path) -> None:
        run.render_world()
        pixels = Statistics.read(class_statistics(run).folder).shrunk
        requests = plan(run.generation, run.source.scenes, pixels=pixels, progress=run.progress)
        (folder / PLAN).write_text(plan_text(requests), encoding="utf-8")

    artifact = run.store.get_or_build(*plan_recipe(run), build)
    check_prompts(run.generation, read_plan(artifact.folder), weights_folders(run.generation.weights))
    return artifact


def generated(run: Run) -> Artifact:
    """The stylized images, as a Hugging Face dataset folder."""

    def build(folder: Path) -> None:
        from generation.generate import HERE, generate
        from generation.plan import read_plan

        run.render_world()
        requests = read_plan(planned(run).folder)
        machine, scenes = run.config.machine, run.source.scenes
        inputs = [scenes[0].label, *weights_folders(run.generation.weights).values()]
        if run.generation.lora is not None:
            inputs.append(lora_file(run.generation.lora))
        execute = units(machine, HERE, inputs=inputs)
        generate(run.generation, requests, scenes, folder, machine=machine, progress=run.progress, execute=execute)

    return run.store.get_or_build(*generated_recipe(run), build)


def alignment(run: Run, data_set: str, folder: Path) -> Artifact:
    """How well each image of a data set follows its label map. `data_set` is the key or fingerprint of `folder`."""

    def build(out: Path) -> None:
        from generation.scores import HERE, score_data_set

        machine = run.config.machine
        execute = units(machine, HERE, inputs=[folder])
        score_data_set(run.config.alignment, folder, out, machine=machine, progress=run.progress, execute=execute)

    return run.store.get_or_build(*alignment_recipe(run, data_set), build)


def alignment_of(store: Path, data_set: Artifact) -> Path:
    """The folder of a data set's alignment scores: the newest ones in the store, else such as the default section
    gives, made now."""
    made = manifests(store, ALIGNMENT.name).values()
    own = [manifest for manifest in made if manifest.inputs["generated"] == data_set.key]
    if own:
        newest = max(own, key=lambda manifest: manifest.finished)
        return ArtifactStore(store).open(newest.key).folder  # verified
    run = Run(ExperimentConfig(name="export", machine=Machine(store=store)), bar)
    return alignment(run, data_set.key, data_set.folder).folder


def join_generation(run: Run) -> None:
    """Help another process, perhaps on another machine with the same store, that makes the generated images."""
    from generation.generate import join

    recipe = generated_recipe(run)
    if run.store.find(*recipe) is None:
        run.render_world()
        folder, machine = run.store.partial(*recipe), run.config.machine
        join(run.generation, run.source.scenes, folder, machine=machine, progress=run.progress)


def segmenter(run: Run, method: str, seed: int, images: Artifact | None) -> Artifact:
    """A segmenter trained by one method from one seed. `images` are the generated ones, for methods that use them."""
    recipe = segmenter_recipe(run, method, seed)

    def build(folder: Path) -> None:
        from training.train import train

        run.render_world()
        section = run.config.training
        own = [images.folder] if images is not None else []
        scored = {}
        for name in (name for name in recipe.inputs if f"{name}, alignment" in recipe.inputs):
            place = unscored(run)[name] or own[0]
            scored[place] = alignment(run, recipe.inputs[name], place).folder
        train(
            section,
            section.methods[method],
            seed,
            [run.source.scenes[row] for row in run.training_rows],
            [*own, *run.config.data.generated],
            folder,
            machine=run.config.machine,
            pixels=training_pixels(run),
            scored=scored,
            progress=run.progress,
            launch=training(run.config.machine),
        )

    return run.store.get_or_build(*recipe, build)


def evaluation(run: Run, model: str, folder_of_model: Path) -> Artifact:
    """Scores of a segmenter on every target."""

    def build(folder: Path) -> None:
        from evaluation.evaluate import HERE, evaluate

        run.render_world()
        section, machine = run.config.evaluation, run.config.machine
        load = partial(load_predict, folder_of_model, section, autotune=machine.autotune)
        domains = {domain.name: domain.scenes for domain in run.targets}
        for domain in run.targets:
            warn_of_labels(domain)
        inputs = [folder_of_model, *(scenes[0].label for scenes in domains.values())]
        execute = units(machine, HERE, inputs=inputs)
        evaluate(load, domains, section, folder, machine=machine, progress=run.progress, execute=execute)

    return run.store.get_or_build(*evaluation_recipe(run, model), build)


class Result(NamedTuple):
    """One row of the report: a segmenter (None: trained elsewhere) and its scores."""

    method: str
    seed: int
    segmenter: Artifact | None
    evaluation: Artifact


class Images(NamedTuple):
    """The generated images and how well they follow their label maps."""

    data_set: Artifact
    scored: Artifact


def report(run: Run, images: Images | None, results: Sequence[Result]) -> Artifact:
    """`report.json`, `index.html` and figures of all results."""
    both = [(result, artifact) for result in results for artifact in result[2:]]
    painted = {} if images is None else {"generated": images.data_set, "alignment": images.scored}
    named = painted | {"world": run.world} | {f"{r.method} {r.seed} {a.kind}": a for r, a in both if a}
    made = {name: artifact for name, artifact in named.items() if artifact is not None}
    inputs = {name: artifact.key for name, artifact in made.items()}
    baseline = run.config.evaluation.baseline

    def build(folder: Path) -> None:
        from evaluation.report import build_report
        from evaluation.summary import ReportContent, TrainedModel

        run.render_world()
        content = ReportContent(
            name=run.config.name,
            models=[
                TrainedModel(r.method, r.seed, r.evaluation.folder, r.segmenter.folder if r.segmenter else None)
                for r in results
            ],
            domains={domain.name: domain.scenes for domain in run.targets},
            generated=images.data_set.folder if images else None,
            alignment=images.scored.folder if images else None,
            seconds=seconds_per_stage(made.values()),
            provenance=_provenance(run, made),
            baseline=baseline,
        )
        build_report(content, folder)

    shown = Settings.whole({"name": run.config.name, "baseline": baseline})
    return run.store.get_or_build(*Recipe(REPORT, shown, inputs), build)


def _provenance(run: Run, made: Mapping[str, Artifact]) -> dict[str, Any]:
    """What could explain a number of the report: code, machines, data, the key of every artifact, and the config."""
    machines = {name: artifact.manifest.hardware for name, artifact in made.items()}
    return provenance() | {
        "Data": {d.name: f"{len(d.scenes):,} scenes, fingerprint {d.key}" for d in (run.source, *run.targets)},
        "Artifacts": {name: f"key {artifact.key}, made on {machines[name]}" for name, artifact in made.items()},
        "Config": run.config.model_dump(mode="json", exclude={"machine", "weights", "pretraining"}),
    }


def seconds_per_stage(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """How long making the artifacts took, by kind, whenever that was."""
    seconds: dict[str, float] = {}
    for artifact in artifacts:
        seconds[artifact.kind] = seconds.get(artifact.kind, 0.0) + artifact.manifest.seconds
    return seconds
