"""What of a section differs from the defaults that a stage's version was born with: what an artifact's key holds.

So an option that is added later, with a default under which nothing changes, changes no key; and a default that is
changed in the code changes the keys of the configs that leave it out, for they now differ from the frozen one.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

Frozen = Mapping[str, Mapping[str, Any]]
"""By the name of a section's class: `defaults` by field, in JSON's values, and the names of `required` fields."""


def differing(section: BaseModel, frozen: Frozen, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of `section` that differ from the frozen defaults, in JSON's values; `without` are left out.

    A section inside of it is reduced alike ({} where it is all defaults, so that it differs from None); a mapping or a
    list of values is kept whole, since what it lacks counts. A field that is not among the frozen ones is younger than
    they are: it is compared with the default that it has in the code.
    """
    left_out, kind = set(without), type(section)
    known = frozen.get(kind.__name__, {})
    result = {}
    for name, field in kind.model_fields.items():
        if name in left_out:
            continue
        value = _reduced(getattr(section, name), frozen, field.annotation)
        if name in known.get("defaults", {}):
            default = known["defaults"][name]
        elif field.is_required() or name in known.get("required", ()):
            result[name] = value
            continue
        else:
            default = _reduced(field.get_default(call_default_factory=True), frozen, field.annotation)
        if _text(value) != _text(default):  # unlike ==, it tells True from 1
            result[name] = value
    return result


def defaults(kind: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Today's defaults of a section's class and of the sections in it, as they are to be frozen."""
    found: dict[str, dict[str, Any]] = {}
    for part in [kind, *(inner for field in kind.model_fields.values() for inner in _models(field.annotation))]:
        if part is not kind:
            found |= defaults(part)
            continue
        fields = part.model_fields.items()
        optional = {
            name: _reduced(field.get_default(call_default_factory=True), {}, field.annotation)
            for name, field in fields
            if not field.is_required()
        }
        found[part.__name__] = {
            "defaults": optional,
            "required": [name for name, field in fields if field.is_required()],
        }
    return found


def _reduced(value: object, frozen: Frozen, annotation: object = None) -> Any:
    if isinstance(value, BaseModel):
        names = [model.__name__ for model in _models(annotation)]
        reduced = differing(value, frozen)
        # Where a field may hold sections of several classes, two that are all defaults must not look alike.
        return {"class": type(value).__name__} | reduced if type(value).__name__ in names[1:] else reduced
    if isinstance(value, Mapping):
        return {key: _reduced(item, frozen) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_reduced(item, frozen) for item in value]
    return to_jsonable_python(value)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _models(annotation: object) -> list[type[BaseModel]]:
    """The sections' classes in an annotation, in its order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
