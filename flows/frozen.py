"""The defaults of every stage's section as they were when the stage got its version, in `flows/defaults`.

`python -m flows.frozen` writes the file STAGE-VERSION.json of a new version, and adds options that are younger to the
files there are; it never changes what stands in one.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.config.differing import Frozen, defaults, differing
from pipeline.files import write_json
from pipeline.store.building import Settings, Stage

FOLDER = Path(__file__).parent / "defaults"


@cache
def frozen(stage: Stage) -> Frozen:
    """The frozen defaults of a stage's version; empty for stages whose config is no section."""
    path = _file(stage)
    content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def settings(
    stage: Stage, section: BaseModel, *, without: Iterable[str] = (), **more: BaseModel | int | str
) -> Settings:
    """What the manifest of an artifact records of its config, and what of that its key holds: `section` without some of
    its fields, and `more` beside them."""
    left_out = set(without)
    full = section.model_dump(mode="json", exclude=left_out)
    reduced = differing(section, frozen(stage), without=left_out)
    for name, value in more.items():
        if isinstance(value, BaseModel):
            full[name], reduced[name] = value.model_dump(mode="json"), differing(value, frozen(stage))
        else:
            full[name] = reduced[name] = value
    return Settings(full, reduced)


def with_younger(old: Frozen, new: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`old` with the classes and fields of `new` that it lacks."""
    result = {}
    for kind in [*old, *(kind for kind in new if kind not in old)]:
        before, now = old.get(kind, {}), new.get(kind, {})
        fields = before.get("defaults", {})
        required = before.get("required", [])
        younger = {k: v for k, v in now.get("defaults", {}).items() if k not in fields and k not in required}
        needed = [name for name in now.get("required", []) if name not in fields and name not in required]
        result[kind] = {"defaults": {**fields, **younger}, "required": [*required, *needed]}
    return result


def current(stage: Stage, sections: Iterable[type[BaseModel]]) -> dict[str, dict[str, Any]]:
    """What the file of a stage's version should hold today."""
    today: dict[str, dict[str, Any]] = {}
    for section in sections:
        today |= defaults(section)
    return with_younger(frozen(stage), today)


def _file(stage: Stage) -> Path:
    return FOLDER / f"{stage.name}-{stage.version}.json"


def main() -> None:
    """Writes all files."""
    from flows.recipes import SECTIONS

    FOLDER.mkdir(exist_ok=True)
    for stage, sections in SECTIONS.items():
        content = current(stage, sections)
        if content != frozen(stage):
            write_json(_file(stage), content)
            print(f"wrote {_file(stage)}")


if __name__ == "__main__":
    main()
