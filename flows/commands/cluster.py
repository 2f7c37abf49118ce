"""Work that goes on by itself: regeneration, re-evaluation, and the deployments of all flows."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import ConfigArgument, SetOption, load
from pipeline.errors import UserError


def regenerate(
    config: ConfigArgument,
    count: Annotated[
        list[str],
        typer.Option(metavar="CONDITION=N", help="New images of a condition: night=200. Without: as many as CONFIG."),
    ] = [],
    class_share: Annotated[
        list[str],
        typer.Option("--class", metavar="NAME=SHARE", help="Share of them that is asked for a class: rider=1.0"),
    ] = [],
    overrides: SetOption = [],
) -> None:
    """Generate further images beside those of a config, and say how to train on all of them."""
    counts = {name: int(value) for name, value in _pairs("--count", count, int).items()}
    classes = _pairs("--class", class_share, float)
    from flows.server.local_server import prefect_server

    with prefect_server(load(config, overrides).config.machine.store):
        from flows.regenerate import regenerate as flow
        from flows.server.pages import command_for_all

        folders = flow(config, overrides, counts, classes)
    print(f"To train on all of them: {command_for_all(config, folders)}")
    print(folders[-1])


def reevaluate(
    config: ConfigArgument,
    overrides: SetOption = [],
    max_drop: Annotated[
        float, typer.Option(metavar="POINTS", help="Exit 3 if mIoU fell by more, and significantly, anywhere.", min=0)
    ] = 0.5,
    notify: Annotated[
        str | None,
        typer.Option(metavar="BLOCK", help="Tell a notification block of the Prefect server: slack-webhook/team"),
    ] = None,
) -> None:
    """Score every registered model on every data set of a config that is there, and compare with its baseline.

    Exit code: 3 if a model is significantly worse than its baseline, or could not be scored.
    """
    from flows.server.local_server import prefect_server

    with prefect_server(load(config, overrides).config.machine.store):
        from flows.reevaluate import reevaluate as flow
        from flows.registered_models import GateError

        try:
            flow(config, overrides, max_drop, notify)
        except GateError as error:
            print(f"flexseg: {error}", file=sys.stderr)
            sys.exit(3)


def deploy(
    pool: Annotated[
        str | None, typer.Option(metavar="NAME", help="Work pool; made for processes if the server has none such.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(metavar="CRON", help="When to re-evaluate, for instance '0 3 * * *' (UTC).")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="CONFIG", help="The config of the schedule, and what the forms start with.")
    ] = None,
    notify: Annotated[
        str | None, typer.Option(metavar="BLOCK", help="Whom the schedule tells: slack-webhook/team")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(metavar="N", help="GPUs that all flows together may use at once.", min=1)
    ] = None,
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Where flows run on the workers: relative paths start there.")
    ] = Path(),
) -> None:
    """Register the flows on the Prefect server at PREFECT_API_URL: deployments, schedule, GPU limit, and a watch for
    dead runs. Doing it again changes nothing but what was changed in prefect.yaml or here."""
    from flows.server.deployments import deploy as deploy_all

    parameters = {name: value for name, value in {"config": config, "notify": notify}.items() if value is not None}
    for line in deploy_all(folder.absolute(), pool=pool, cron=cron, gpus=gpus, parameters=parameters):
        print(line)


def _pairs(option: str, texts: list[str], number: type[int] | type[float]) -> dict[str, float]:
    pairs: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found = number(value)
        except ValueError:
            found = number(-1)
        if not 0 <= found < float("inf"):  # neither is NaN
            raise UserError(f"{option} {text}: wanted a name and a number from 0 on, for instance night=200")
        if name in pairs:
            raise UserError(f"{option} names {name!r} twice: give it once")
        pairs[name] = found
    return pairs
