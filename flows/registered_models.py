"""Registered models: segmenters that are scored again and again, each with the evaluation that it must not fall below.

A record is a small JSON file in the folder `models` of the store, of the remote one where there is one.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import StringConstraints

from evaluation.schema import read_evaluation
from flows.run import Run
from flows.segmenters import find_model
from pipeline.data.datasets import find_scenes
from pipeline.errors import UserError, one_line
from pipeline.files import write_json
from pipeline.store.artifacts import Artifact, ArtifactStore
from pipeline.store.building import disk_full
from pipeline.store.manifest import canonical_json
from pipeline.store.records import DamagedError, StoredRecord, json_object, parse_record, read_file

FOLDER = "models"
NAME = r"[a-z0-9][a-z0-9_.-]{0,99}"


class GateError(Exception):
    """Registered models that are significantly worse than their baseline, or could not be scored."""


class Model(StoredRecord):
    """A registered model, as its record has it."""

    name: Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
    model: str
    """Folder, key in the store, or name on the Hugging Face Hub."""
    baseline: str | None = None
    """Folder or key of an evaluation; None until it was scored once."""


class Verdict(NamedTuple):
    """What a re-evaluation says of one model. Scores are shares, not percent."""

    name: str
    passed: bool
    lines: Sequence[str]
    """Why it failed, or what else is to be said of it."""
    miou: float | None = None
    """Mean over the domains."""
    difference: float | None = None
    """To the baseline, in the mean over the domains."""
    evaluation: str | None = None
    """Its key in the store."""


def register(store: ArtifactStore, name: str, model: str, baseline: str | None) -> Model:
    """Writes a model's record, over one of that name. UserError where model or baseline are not there."""
    if not re.fullmatch(NAME, name):
        raise UserError(f"model name {name[:120]!r} becomes a file name: use a-z, 0-9, _ . and -, 100 at most")
    find_model(store, model)
    if baseline is not None:
        from flows.comparison import evaluations

        evaluations(baseline, store)
    record = Model(name=name, model=_lasting(model), baseline=baseline and _lasting(baseline))
    save(store, record)
    return record


def save(store: ArtifactStore, model: Model) -> None:
    """Writes the record; whoever reads it meanwhile finds the old one or the new one."""
    name = f"{FOLDER}/{model.name}.json"
    if store.remote is not None:
        store.remote.write(name, canonical_json(model.model_dump()).encode())
        return
    try:
        (store.root / FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(store.root / name, model.model_dump())
    except OSError as error:
        fix = "free space" if disk_full(error) else "set machine.store to a folder that you may write to"
        raise UserError(f"cannot write {store.root / name}: {one_line(error)}; {fix}, and register it again") from error


def registered(store: ArtifactStore) -> list[Model]:
    """All registered models, by name. UserError if there is none, or a record that cannot be used."""
    models = records(store)
    if not models:
        place = str(store.root / FOLDER) if store.remote is None else store.remote.where(FOLDER)
        raise UserError(f"no model is registered in {place}: flexseg models register NAME --model FOLDER_OR_KEY")
    return models


def records(store: ArtifactStore) -> list[Model]:
    """All registered models, by name, perhaps none. UserError for a record that cannot be used."""
    if store.remote is not None:
        remote = store.remote
        objects = ((name, remote.read(name)) for name in remote.sizes(FOLDER))
        return [_read(remote.where(name), data) for name, data in objects if data is not None]
    return [_read(str(file), file) for file in sorted((store.root / FOLDER).glob("*.json"))]


def _read(place: str, source: bytes | Path) -> Model:
    try:
        data = read_file(source) if isinstance(source, Path) else source
        model = parse_record(Model, json_object(data))
        if not place.endswith(f"/{model.name}.json"):
            raise DamagedError(f"it names the model {model.name!r}")
    except DamagedError as error:
        raise UserError(f"damaged record {place}: {error}; delete it and register the model again") from error
    return model


def present(run: Run) -> tuple[Run, dict[str, str]]:
    """The run without the targets that are not on this machine, and why each of them is left out. UserError if none is
    left."""
    data, missing = run.config.data, {}
    for target in data.targets:
        try:
            find_scenes(target, incomplete=True)
        except UserError as error:
            missing[target.name] = str(error)
    if not missing:
        return run, {}
    if len(missing) == len(data.targets):
        raise UserError(f"none of the config's {len(missing)} targets is there: {next(iter(missing.values()))}")
    left = data.model_copy(update={"targets": tuple(t for t in data.targets if t.name not in missing)})
    return Run(run.config.model_copy(update={"data": left}), run.progress), missing


def judge(store: ArtifactStore, model: Model, evaluation: Artifact, max_drop: float) -> Verdict:
    """Compares an evaluation of the model with its baseline: it fails where mIoU fell by more than `max_drop` points,
    and significantly so. Without a baseline the evaluation becomes it."""
    scores = read_evaluation(evaluation.folder).domains.values()
    values = [domain.miou for domain in scores if domain.miou is not None]
    miou = sum(values) / len(values) if values else None
    if model.baseline is None:
        save(store, model.model_copy(update={"baseline": evaluation.key}))
        return Verdict(
            model.name, True, ["its first evaluation: the baseline from now on"], miou, evaluation=evaluation.key
        )
    from evaluation.compare import compare, regressions
    from flows.comparison import evaluations

    comparison = compare(evaluations(model.baseline, store), [evaluation.folder])
    fallen = regressions(comparison, max_drop)
    return Verdict(model.name, not fallen, fallen, miou, comparison.mean.difference, evaluation.key)


def failed(model: Model, error: Exception) -> Verdict:
    """The verdict on a model that could not be scored or compared."""
    kind = (
        ""
        if isinstance(error, UserError)
        else f"a defect of flexseg, its traceback is in the log: {type(error).__name__}: "
    )
    return Verdict(model.name, False, [f"{kind}{one_line(error)}"])


def summary(verdicts: Sequence[Verdict], missing: Mapping[str, str]) -> tuple[str, str]:
    """(headline, all of it) as Markdown that reads well as plain text too."""
    bad = [verdict.name for verdict in verdicts if not verdict.passed]
    headline = (
        f"{len(bad)} of {len(verdicts)} registered models failed: {', '.join(bad)}"
        if bad
        else (f"all {len(verdicts)} registered models passed")
    )
    lines = [headline, ""]
    for verdict in verdicts:
        numbers = [] if verdict.miou is None else [f"{100 * verdict.miou:.1f} mIoU"]
        if verdict.difference is not None:
            numbers.append(f"{100 * verdict.difference:+.2f} against its baseline")
        lines.append(
            f"- {verdict.name} {'passed' if verdict.passed else 'FAILED'}: {'; '.join([*numbers, *verdict.lines])}"
        )
    lines += [f"- {name} was left out: {why}" for name, why in missing.items()]
    return headline, "\n".join(lines)


def _lasting(place: str) -> str:
    """A name that means the same from every folder."""
    return str(Path(place).absolute()) if Path(place).exists() else place
