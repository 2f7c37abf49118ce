"""An experiment and its parts: plan, train, evaluate, compare."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import ConfigArgument, SetOption, load
from pipeline.errors import UserError
from pipeline.files import check_output

if TYPE_CHECKING:
    from flows.run import Run


def run(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Run the whole experiment: generate, train every method, evaluate, report. Finished stages come from the cache.

    Exit code: 2 if files of the targets had to be skipped; the report lists them.
    """
    from flows import story
    from flows.commands.summary import print_summary
    from flows.server.local_server import server_named
    from flows.stages import check

    checked = load(config, overrides)
    check(checked)  # before Prefect's server starts; the flow does not check again
    if not server_named() and story.finished(checked):
        complete = print_summary(checked)
    else:
        complete = print_summary(_with_prefect(checked, config, overrides))
    if not complete:
        sys.exit(2)


def _with_prefect(checked: "Run", config: str, overrides: list[str]) -> "Run":
    """The flow; without Prefect, whose states nobody needs, where its temporary server is lost for good."""
    from flows.run import handed_over
    from flows.server.local_server import prefect_server, server_lost

    with prefect_server(checked.config.machine.store):
        from flows.experiment import experiment

        try:
            with handed_over(checked):
                return experiment(config, overrides)
        except Exception as error:
            if isinstance(error, UserError) or not server_lost():
                raise
    from flows import story
    from flows.retries import persistently

    print("flexseg: going on without Prefect: what was finished is in the store", file=sys.stderr)
    run = load(config, overrides)
    story.experiment(run, persistently)
    return run


def plan(
    config: ConfigArgument,
    overrides: SetOption = [],
    write: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write the list of all images to this new file.")
    ] = None,
    *,
    measure: Annotated[bool, typer.Option("--measure", help="Paint one batch to see how long it takes.")] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Estimate FLOPs, GPU memory, GPU hours and disk of what is not made yet.")
    ] = False,
    card: Annotated[
        str | None,
        typer.Option(metavar="NAME|TFLOPS", help="--cost on this GPU: h100, a100, rtx4090, or its bf16 rate."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="Share of the card's rate that --cost assumes.", min=0.001, max=1)
    ] = 0.4,
) -> None:
    """Print what would be generated, how long that takes and what the cache holds, before anything long is started."""
    if write is not None:
        check_output(write, "--write")
        if write.exists():
            raise UserError(f"--write {write} is there already; name a new file")
    from flows import stages
    from flows.commands.summary import print_costs, print_plan

    run = load(config, overrides)
    if measure or cost or write is not None or card is not None:  # they need the data; the rest renders no toy town
        run.render_world()
    missing = print_plan(run, measure=measure)
    if cost or card is not None:
        print_costs(run, missing, card, utilisation)
    if write is not None:
        write.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stages.planned(run).folder / "plan.jsonl", write)


def train(
    config: ConfigArgument,
    method: Annotated[str, typer.Option(help="A method of the config's training.methods, for instance flex-seg.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, crops and order.")] = 0,
    overrides: SetOption = [],
) -> None:
    """Train one segmenter (generating its images first if the method uses them). Prints the model's folder."""
    from flows import data_stages, stages
    from flows.recipes import method_of
    from flows.retries import persistently
    from training.pretrained_encoders import check_pretrained
    from training.processes import check_processes

    run = load(config, overrides)
    row = method_of(run, method)
    uses_images = row.generated and run.config.generation is not None
    section = run.config.training.of(row)
    check_processes(section, run.config.machine)
    check_pretrained(section.network)
    data_stages.check_crop(run, method)
    data_stages.labels(run)
    images = persistently(stages.generated)(run) if uses_images else None
    print(persistently(stages.segmenter)(run, method, seed, images).folder / "segmenter")


def evaluate(
    config: ConfigArgument,
    model: Annotated[
        str,
        typer.Option(
            metavar="FOLDER_OR_KEY",
            help="A segmenter: its folder or key, RUN:METHOD (runs/toy:flex-seg), or a transformers model's Hub name.",
        ),
    ],
    overrides: SetOption = [],
    baseline: Annotated[
        str | None, typer.Option(metavar="FOLDER_OR_KEY", help="An earlier evaluation to compare with.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Exit 3 if mIoU fell by more, and significantly, anywhere.", min=0),
    ] = None,
) -> None:
    """Score a segmenter on the target data sets of a config: mIoU, per class, boundary and interior error.

    Exit code: 2 if files had to be skipped, 3 if the baseline is significantly better.
    """
    if max_drop is not None and baseline is None:
        raise UserError(
            "--max-drop says how far mIoU may fall: add --baseline, the evaluation that it is compared with"
        )
    from flows import stages
    from flows.commands.summary import print_evaluation
    from flows.comparison import evaluations, regressed
    from flows.retries import persistently
    from flows.segmenters import find_model

    run = load(config, overrides)
    key, folder = find_model(run.store, model)
    before = evaluations(baseline, run.store) if baseline is not None else []
    evaluation = persistently(stages.evaluation)(run, key, folder)
    complete = print_evaluation(evaluation)
    if baseline is not None and regressed(before, evaluation.folder, baseline, max_drop):
        sys.exit(3)
    if not complete:
        sys.exit(2)


def compare(
    baseline: Annotated[
        str,
        typer.Argument(
            metavar="A", help="The key or folder of an evaluation, or of a run with the method: runs/toy:flex-seg"
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="What is compared with it, named alike.")],
    store: Annotated[Path, typer.Option(metavar="DIR", help="The store that keys are looked up in.")] = Path("cache"),
) -> None:
    """Say whether B is really better than A: difference in mIoU per target with 95% interval and p-value."""
    from evaluation.compare import compare as compare_folders
    from flows.comparison import evaluations, print_comparison
    from pipeline.store.artifacts import ArtifactStore

    folders = [evaluations(place, ArtifactStore(store)) for place in (baseline, other)]
    print_comparison(compare_folders(*folders), baseline, other)
