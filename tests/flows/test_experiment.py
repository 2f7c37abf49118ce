"""The whole experiment in miniature, through the command line and Prefect."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.side_by_side import Slot
from pipeline.files import file_sha256
from pipeline.store.artifacts import ArtifactStore
from tests.mini import write_mini

STAGES = dict.fromkeys(("world", "labels", "plan", "generated", "alignment", "report"), 1) | {
    "segmenter": 3,
    "evaluation": 3,
}
ROOT = Path(__file__).parents[2]
CACHED = """
import sys
from flows.cli import app
from flows.side_by_side import Slot

app(["run", sys.argv[1]], standalone_mode=False)
print(sorted({"accelerate", "datasets", "diffusers", "prefect", "ray", "torch", "transformers"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect database, and so one temporary server, for all flows of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Reports with fewer pixels: encoding those of a page takes longer than all that is tested about them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.figures.PNG_DPI", 60)
        patch.setattr("evaluation.gallery.PICTURE_PX", 256)
        yield


@pytest.fixture
def config(write_config: Callable[..., Path], tiny_weights: Path) -> Path:
    """The miniature with a generator that really generates."""
    return write_config(tiny_weights)


class Ran(NamedTuple):
    """The miniature after its first run, from which other commands go on in the same store."""

    config: Path
    store: Path
    made: dict[Path, str]
    result: Result


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, prefect_home: None) -> Ran:
    """`flexseg run` of the miniature: a generator of random weights, three methods, five targets."""
    folder = tmp_path_factory.mktemp("ran")
    config = write_mini(folder, tiny_weights)
    result = flexseg("run", str(config))
    return Ran(config, folder / "store", manifests(folder / "store"), result)


def flexseg(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def manifests(store: Path) -> dict[Path, str]:
    """Those of finished artifacts: an interrupt may come between a manifest and its folder's renaming."""
    found = [path for path in store.glob("*/*/manifest.json") if path.parent.suffix != ".partial"]
    return {path: file_sha256(path) for path in found}


@pytest.mark.timeout(900)  # busy machines take minutes to import torch, diffusers and prefect
def test_masks_to_report(ran: Ran) -> None:
    assert ran.result.exit_code == 0, ran.result.output
    assert {stage: sum(path.parts[-3] == stage for path in ran.made) for stage in STAGES} == STAGES
    report = ran.config.parent / "runs" / "mini"
    assert f"Report: {report / 'index.html'}" in ran.result.stdout
    numbers = json.loads((report / "report.json").read_text())
    assert [method["name"] for method in numbers["methods"]] == ["source-only", "cross-entropy", "flex-seg"]
    assert [domain["name"] for domain in numbers["domains"]] == ["clear", "fog", "rain", "snow", "night"]
    assert set(numbers["seconds"]) == set(STAGES) - {"report", "labels", "plan"}
    assert "<html" in (report / "index.html").read_text()


@pytest.mark.timeout(900)
def test_again_from_the_cache(ran: Ran) -> None:
    """What another option makes anew is told by keys, which `test_stages` looks at."""
    before = manifests(ran.store)
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-c", CACHED, str(ran.config)]
    again = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "[]", "prefect and torch take most of the time of such a run"
    assert "Every stage was in the cache" in again.stdout and manifests(ran.store) == before
    tables = [output[output.index("mIoU") : output.index("Report:")] for output in (ran.result.stdout, again.stdout)]
    assert tables[0] == tables[1].replace("Every stage was in the cache, nothing was built.\n", "")


@pytest.mark.usefixtures("prefect_home")
def test_bad_label_in_the_flow_is_one_line(
    tmp_path: Path, write_config: Callable[..., Path], stand_in_weights: Path
) -> None:
    for k in range(2):
        for kind, pixels in (
            ("images", np.zeros((64, 128, 3), np.uint8)),
            ("labels", np.full((64, 128), 76 + k, np.uint8)),
        ):
            (tmp_path / "gta" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "gta" / kind / f"{k}.png")
    source = {"name": "gta", "root": str(tmp_path / "gta"), "layout": "gta"}
    result = flexseg("run", str(write_config(stand_in_weights, data={"source": source, "targets": [source]})))
    assert result.exit_code == 2, result.output
    assert "label id 76 (8192 px)" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output and result.stderr.count("label id 76") == 1


@pytest.mark.timeout(900)
def test_regeneration_adds_images(ran: Ran) -> None:
    config = str(ran.config)
    first = flexseg("regenerate", config, "--count", "night=2", "--class", "road=1.0")
    assert first.exit_code == 0, first.output
    second = flexseg("regenerate", config, "--count", "night=1")
    assert second.exit_code == 0, second.output
    folders = [Path(result.stdout.splitlines()[-1]) for result in (first, second)]
    assert [len(list((folder / "data").glob("*.parquet"))) for folder in folders] == [1, 1]
    plans = [[json.loads(line)["id"] for line in (folder / "plan.jsonl").open()] for folder in folders]
    assert plans == [["night-000000", "night-000001"], ["night-000002"]]
    assert f"--set 'data.generated=[{folders[0]}, {folders[1]}]'" in second.stdout
    wrong = flexseg("regenerate", config, "--count", "night")
    assert (wrong.exit_code, wrong.stderr.splitlines()[-1][:33]) == (2, "flexseg: --count night: wanted a ")


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("prefect_home")
def test_a_worse_model_fails_its_reevaluation(
    tmp_path: Path,
    write_config: Callable[..., Path],
    stand_in_weights: Path,
    one_class_segmenter: Callable[[str, int], Path],
) -> None:
    config = str(
        write_config(stand_in_weights, data={"toytown": {"source_images": 2, "target_images": 4, "size": [64, 128]}})
    )
    nothing = flexseg("reevaluate", config)
    assert nothing.exit_code == 2 and "no model is registered" in nothing.stderr.splitlines()[-1]
    model = str(one_class_segmenter("mine", 0))
    registered = flexseg("models", "register", "mine", "--model", model, "--store", str(tmp_path / "store"))
    assert registered.stdout.splitlines() == [f"mine: {model}, baseline will be its first evaluation"]
    first, again = flexseg("reevaluate", config), flexseg("reevaluate", config)
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert "baseline from now on" in first.stdout and "+0.00 against its baseline" in again.stdout
    one_class_segmenter("mine", 16)
    late = flexseg("reevaluate", config, "--set", "machine.timeout_hours.evaluation=1e-6")
    assert late.exit_code == 3 and "stage 'evaluation' took longer than 0.0 s" in late.stdout, late.output
    worse = flexseg("reevaluate", config, "--max-drop", "0.1")
    assert worse.exit_code == 3, worse.output
    assert worse.stderr.splitlines()[-1] == "flexseg: 1 of 1 registered models failed: mine"
    assert "mIoU fell by" in worse.stdout and "Traceback" not in worse.output


def test_single_commands_share_the_store_with_the_flow(tmp_path: Path, ran: Ran) -> None:
    config = str(ran.config)
    plan = flexseg("plan", config, "--set", f"machine.store={tmp_path / 'empty'}")
    assert plan.exit_code == 0 and "4 images of 64x32 px" in plan.stdout and "to be made" in plan.stdout
    assert "made, took" in flexseg("plan", config).stdout
    images = set(ran.store.glob("generated/*/manifest.json"))

    generated = flexseg("generate", config, "--output", str(tmp_path / "dataset"))
    assert generated.exit_code == 0, generated.output
    assert generated.stdout.splitlines()[-1] == str(tmp_path / "dataset")
    assert len(list((tmp_path / "dataset" / "data").glob("*.parquet"))) == 2

    trained = flexseg("train", config, "--method", "cross-entropy", "--seed", "3")
    assert trained.exit_code == 0, trained.output
    model = Path(trained.stdout.splitlines()[-1])
    key = ArtifactStore(ran.store).open(model.parent.name).key
    assert (model / "config.json").is_file()
    assert set(ran.store.glob("generated/*/manifest.json")) == images, "the flow's images are used"

    by_key, by_folder = (flexseg("evaluate", config, "--model", name) for name in (key, str(model)))
    for result in (by_key, by_folder):
        assert result.exit_code == 0, result.output
        assert "128\u00d764 px" in result.stdout and "night" in result.stdout


def start(config: Path) -> subprocess.Popen[bytes]:
    """Runs the flow in a process of its own that writes `out` and `err` beside the config.

    Files, not pipes: after SIGKILL Prefect's server holds a pipe open until it sees that its parent is gone.
    """
    command = [sys.executable, "-m", "flows.cli", "run", str(config)]
    with (config.parent / "out").open("wb") as out, (config.parent / "err").open("wb") as err:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True)


def wait_for(store: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 400
    while not list(store.glob(pattern)):
        assert time.monotonic() < deadline and process.poll() is None, (store.parent / "err").read_text()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_in_the_middle_and_continued(tmp_path: Path, config: Path, number: signal.Signals) -> None:
    process = start(config)
    wait_for(tmp_path / "store", "segmenter/*/manifest.json", process)
    wait_for(tmp_path / "store", "segmenter/*.partial/*", process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: Prefect's server gets it too
    else:
        os.kill(process.pid, number)
    process.wait(120)
    errors = (tmp_path / "err").read_text()
    before = manifests(tmp_path / "store")
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1].startswith("flexseg: interrupted") and "Traceback" not in errors
    rerun = start(config)
    assert rerun.wait(400) == 0, (tmp_path / "err").read_text()
    after = manifests(tmp_path / "store")
    assert before.items() <= after.items() and len(after) == sum(STAGES.values())
    assert not list((tmp_path / "store").glob("*/*.partial"))
    assert "Report: " in (tmp_path / "out").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("prefect_home")
def test_a_flow_makes_its_rows_side_by_side(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs that are simulated: three rows, the same artifacts as in turn, and nothing in it twice."""
    monkeypatch.setattr("flows.experiment.slots", lambda machine: [Slot(("0",)), Slot(("1",))])
    result = flexseg("run", str(config))
    assert result.exit_code == 0, result.output
    made = manifests(tmp_path / "store")
    assert {stage: sum(path.parts[-3] == stage for path in made) for stage in STAGES} == STAGES
    rows = json.loads((tmp_path / "runs" / "mini" / "report.json").read_text())["methods"]
    assert [row["name"] for row in rows] == ["source-only", "cross-entropy", "flex-seg"]
    spans = [
        (manifest["started"], manifest["finished"])
        for path in (tmp_path / "store" / "segmenter").glob("*/manifest.json")
        if (manifest := json.loads(path.read_text()))
    ]
    assert max(start for start, _ in sorted(spans)[:2]) < min(end for _, end in spans), "two were trained at once"
