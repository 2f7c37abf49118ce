"""The whole config of an experiment, and how it is loaded: preset or file, `base`, overrides, errors in one line."""

import difflib
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, field_validator, model_validator

from pipeline.config.base import Section, merged
from pipeline.config.data import DataConfig
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.generation import AlignmentConfig, GenerationConfig
from pipeline.config.machine import Machine
from pipeline.config.reading import parse_override, read_config, shown
from pipeline.config.training import TrainingConfig
from pipeline.config.weights import Pretraining, WeightsConfig
from pipeline.errors import UserError, one_line
from pipeline.toytown import TARGETS

MOVED = {
    "generation.batch_size": "machine.generation_batch",
    "generation.window_batch": "machine.window_batch",
    "generation.compile": "machine.compile_generator",
    "generation.alignment_detector": "alignment.detector",
    "generation.alignment_weights": "alignment.weights",
    "generation.alignment_radius": "alignment.radius",
}
"""Keys of configs of version 0.1, and what they are called now."""
MOST_SAID = 1000
MOST_NAME = 120


class ExperimentConfig(Section):
    """One experiment. `generation` may be left out where no method uses generated images; `weights` is only for
    `flexseg weights train`; `machine` never enters an artifact's key."""

    name: str
    """Name of the run, and of the link to its report: one part of a path."""
    data: DataConfig = DataConfig()
    generation: GenerationConfig | None = None
    alignment: AlignmentConfig = AlignmentConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    machine: Machine = Machine()
    weights: WeightsConfig | None = None
    pretraining: Pretraining | None = None
    """How an encoder with the sizes of `training.network` is pretrained, by `flexseg weights train` alone."""

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if "/" in name or name.startswith(".") or not name.strip() or len(os.fsencode(name)) > MOST_NAME:
            raise ValueError(
                f"it becomes a file name: wanted 1 to {MOST_NAME} bytes without '/' that do not start with '.'"
            )
        return name

    @property
    def dropped(self) -> list[str]:
        """What the config switches off that stands in a base: one line each, for people."""
        names = [name for name, size in self.evaluation.size.items() if size is None]
        return [f"evaluation.size of {', '.join(names)} is null and so left out"] if names else []

    @model_validator(mode="after")
    def _sizes_belong_to_targets(self) -> Self:
        targets = TARGETS if self.data.toytown else [target.name for target in self.data.targets]
        unknown = [name for name, size in self.evaluation.size.items() if size and name not in targets]
        if targets and unknown:
            raise ValueError(
                f"evaluation.size names {unknown[0]!r}, which is no target ({', '.join(targets)}): correct the name, or"
                f" set evaluation.size.{unknown[0]} to null"
            )
        return self


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The config of a preset (by name) or of a YAML file, with `key.path=value` overrides on top.

    A top-level `base: NAME` in a file stands for all of that preset or file, over which the rest is merged key by key
    (lists are replaced whole). Values of overrides are YAML. `name` defaults to the preset's or file's own name.
    Relative paths inside a file, its `base` too, start from the file's own folder; those of presets and overrides from
    the working folder. `~` is the home. UserError, one line, for everything that can be wrong in it.
    """
    content = read_config(name_or_path)
    for override in overrides:
        content = merged(content, parse_override(override))
    _check_moved(name_or_path, content)
    try:
        return ExperimentConfig.model_validate({"name": Path(name_or_path).stem, **content})
    except ValidationError as error:
        said = ValueError(f"config {name_or_path}: {_explain(error, content)}")
        raise UserError(one_line(said, MOST_SAID)) from error


def _check_moved(name_or_path: str | Path, content: Mapping[str, Any]) -> None:
    for old, new in MOVED.items():
        section, _, name = old.partition(".")
        if isinstance(content.get(section), dict) and name in content[section]:
            raise UserError(
                f"config {name_or_path}: '{old}' is '{new}' now, as it changes no image of a data set: move its value"
                " there"
            )


def _explain(error: ValidationError, content: Mapping[str, Any]) -> str:
    """The first problem in one line: dotted path, what came, what was wanted."""
    problems = error.errors(include_url=False)
    first = min(problems, key=_rank)
    path = _path(first["loc"], content, missing=first["type"] == "missing")
    dotted = ".".join(str(part) for part in path)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(repr(key) for key in close)}?" if close else f"known keys: {', '.join(known)}"
        )
        return f"unknown key '{dotted}'; {hint}{more}"
    wanted = first["msg"].removeprefix("Value error, ")
    wanted = " ".join((wanted[:1].lower() + wanted[1:]).split())
    if first["type"] in ("missing", "value_error"):
        return f"'{dotted}': {wanted}{more}" if dotted else f"{wanted}{more}"
    return f"'{dotted}' is {shown(first['input'])}: {wanted}{more}"


def _rank(problem: Mapping[str, Any]) -> tuple[bool, bool]:
    """Least for what explains the others: a mistyped key what is missing, a table's wrong entry that it is no word."""
    no_word = problem["type"] == "literal_error" and isinstance(problem["input"], dict)
    return problem["type"] != "extra_forbidden", no_word


def _path(location: tuple[int | str, ...], content: Mapping[str, Any], *, missing: bool) -> list[int | str]:
    """The parts of a pydantic location that exist in the file (unions and dict keys add parts of their own), and the
    last one in any case where it is what is missing."""
    path: list[int | str] = []
    here: Any = content
    for part in location:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    return [*path, location[-1]] if missing else path


def _keys_at(path: Sequence[int | str]) -> list[str]:
    """Known keys of the section at `path` of the config."""
    kind: Any = ExperimentConfig
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:  # an entry of a tuple or dict
            kind = get_args(kind)[-2] if get_args(kind)[-1] is Ellipsis else get_args(kind)[-1]
        while get_origin(kind) in (Union, types.UnionType):
            kind = next(option for option in get_args(kind) if option is not type(None))
    return list(kind.model_fields)
