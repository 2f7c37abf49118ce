"""The configs in examples/ and what their headers tell people to add."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.base import merged
from pipeline.config.experiment import ExperimentConfig, load_config
from pipeline.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(file.name for file in EXAMPLES.glob("*.yaml"))


def shown_overrides(name: str) -> list[str]:
    """The --set of the commands in a config's header."""
    header = re.match(r"(#.*\n)+", (EXAMPLES / name).read_text())
    assert header is not None
    return sorted(set(re.findall(r"--set (\S+=\S+)", header[0])))


def loaded(name: str) -> ExperimentConfig:
    return load_config(EXAMPLES / name, shown_overrides(name))


@pytest.mark.parametrize("name", FILES)
def test_every_example_loads_by_its_own_command(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert re.search(rf"^# Command: flexseg \w+ examples/{name}( |$)", text, flags=re.MULTILINE)
    assert re.search("^# Hardware, time: ", text, flags=re.MULTILINE)
    assert f"({name})" in (EXAMPLES / "README.md").read_text()
    config = loaded(name)
    assert config.name == Path(name).stem
    # What is said in the file arrives, whatever stands below it.
    own = yaml.safe_load(text)
    below = own.pop("base", None)
    assert config != load_config(below or "toy").model_copy(update={"name": config.name})


@pytest.mark.parametrize("name", FILES)
def test_no_example_names_a_folder_that_a_clone_has_not(name: str) -> None:
    assert re.findall(r"\b(?:root|remote): .*", (EXAMPLES / name).read_text()) == []
    if overrides := [override for override in shown_overrides(name) if ".root=" in override]:
        with pytest.raises(UserError, match=r"root': (field required|Field required)"):
            load_config(EXAMPLES / name, overrides[1:])


def test_what_the_examples_ask_for() -> None:
    camvid = loaded("camvid.yaml")
    assert camvid.data.source is not None and camvid.data.targets[0].root == camvid.data.source.root == Path("FOLDER")
    assert (camvid.data.source.take, camvid.data.targets[0].take) == ((0, 80), (80, None))
    painted = loaded("own_label_maps.yaml")
    assert painted.data.toytown is None and painted.data.source is not None and painted.data.source.images is None
    cluster = loaded("cluster.yaml")
    assert (cluster.machine.executor, cluster.machine.remote) == ("ray", "s3://BUCKET/FOLDER")
    assert cluster.training == load_config("toy-3-seeds").training
    ablation = loaded("ablation.yaml")
    assert [m.generated for m in ablation.training.methods.values()] == [False, True, True]
    assert ablation.evaluation.baseline in ablation.training.methods


def test_a_number_names_an_entry_of_a_list() -> None:
    base: dict[str, Any] = {"targets": [{"name": "a", "root": "x"}, {"name": "b", "root": "y"}], "other": [1]}
    assert merged(base, {"targets": {"1": {"root": "z"}}}) == {
        "targets": [{"name": "a", "root": "x"}, {"name": "b", "root": "z"}],
        "other": [1],
    }
    assert base["targets"][1]["root"] == "y"
    # A place that is not there stays a mistake for the config's own check to name.
    assert merged(base, {"other": {"1": 5}})["other"] == {"1": 5}
