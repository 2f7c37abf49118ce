"""What of a section enters a key: what differs from the defaults."""

from typing import Any, Literal

from pipeline.config.base import Section
from pipeline.config.differing import defaults, differing
from pipeline.config.generation import FusionConfig, GenerationConfig
from pipeline.config.training import Method, TrainingConfig


def generation(**changes: Any) -> dict[str, Any]:
    return differing(GenerationConfig.model_validate({"weights": "w", **changes}), defaults(GenerationConfig))


def test_sections_mappings_and_lists() -> None:
    assert generation() == {"weights": "w"}
    assert generation(fusion=None) == generation()
    assert generation(fusion={}) == {"weights": "w", "fusion": {}}  # fusion with its defaults is not no fusion
    assert generation(fusion={"upscale": 2}) == generation(fusion={})
    assert generation(fusion={"upscale": 3})["fusion"] == {"upscale": 3}
    # a mapping counts as a whole: fewer conditions are not the default
    assert generation(counts={"plain": 3000})["counts"] == {"plain": 3000}
    assert generation(guidance=7.5) == generation(guidance="7.5") == generation()
    assert generation(size=[512, 512]) == generation()


def test_a_default_that_changes_in_the_code_gives_those_who_leave_it_out_another_key() -> None:
    old = defaults(GenerationConfig)
    later = {
        **old,
        "GenerationConfig": {**old["GenerationConfig"], "defaults": dict(old["GenerationConfig"]["defaults"])},
    }
    later["GenerationConfig"]["defaults"]["steps"] = 50  # frozen when the default was 50; today's code has 20
    section = GenerationConfig(weights="w")
    assert differing(section, later) == {"weights": "w", "steps": 20}
    assert differing(section.model_copy(update={"steps": 50}), later) == {"weights": "w"}


def test_methods_are_known_by_their_switches() -> None:
    known = defaults(Method)
    assert differing(Method(), known) == {} and differing(Method(gap=True, ube=False), known) == {"gap": True}
    assert {**defaults(TrainingConfig)}.keys() >= {"TrainingConfig", "Method", "HrdaConfig", "OptimizerConfig"}


class One(Section):
    kind: Literal["one"] = "one"
    size: int = 1


class Two(Section):
    kind: Literal["two"] = "two"
    size: int = 1


class Choice(Section):
    part: One | Two = One()
    number: int | bool = 1
    fusions: tuple[FusionConfig, ...] = ()
    must: int


def test_sections_of_two_classes_never_look_alike() -> None:
    known = defaults(Choice)
    found = [differing(Choice(part=part, must=1), known) for part in (One(), Two(), Two(size=2))]
    assert found == [
        {"must": 1},
        {"part": {"class": "Two"}, "must": 1},
        {"part": {"class": "Two", "size": 2}, "must": 1},
    ]
    assert differing(Choice(number=True, must=1), known) == {"number": True, "must": 1}  # though True == 1
    assert differing(Choice(fusions=(FusionConfig(), FusionConfig(stride=4)), must=1), known)["fusions"] == [
        {},
        {"stride": 4},
    ]
    # an option that had to be given and has a default by now: its old keys stay
    assert differing(Choice(must=0), {"Choice": {"defaults": {}, "required": ["must"]}})["must"] == 0
