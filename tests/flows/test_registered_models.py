"""Registered models, the gate on their re-evaluation, and what is said of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluation.counts import no_counts, stack
from flows.cli import app
from flows.registered_models import Model, failed, judge, present, register, registered, save, summary
from flows.run import Run
from pipeline.config.data import Dataset
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.experiment import ExperimentConfig
from pipeline.data.labels import NUM_CLASSES
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from tests.scored import write_evaluation

Mini = Callable[..., ExperimentConfig]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def evaluated(store: ArtifactStore, right: int) -> Artifact:
    """An evaluation of 9 scenes with about `right` of 100 px right."""

    def build(folder: Path) -> None:
        rows = []
        for k in range(9):
            confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
            confusion[0, :2] = right + k, 100 - right - k
            rows.append((f"scene{k}", None, no_counts(1)._replace(confusion=confusion)))
        write_evaluation(folder, {"fog": stack(rows, 1)}, EvaluationConfig(band=5, curve=()))

    return store.get_or_build(Stage("evaluation", 2), {"right": right}, {}, build)


def test_models_are_registered_by_folder_or_key(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    trained = store.get_or_build(Stage("segmenter", 2), {}, {}, lambda folder: None)
    baseline = evaluated(store, 50)
    monkeypatch.chdir(tmp_path)
    register(store, "mine", "mine", None)
    register(store, "flex-seg", trained.key[:16], str(baseline.folder))
    assert registered(store) == [
        Model(name="flex-seg", model=trained.key[:16], baseline=str(baseline.folder)),
        Model(name="mine", model=str(tmp_path / "mine")),
    ]
    assert store.open(trained.key[:16]).key == trained.key, "records are no artifacts"


def test_mistakes_in_registering_are_one_line(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model is registered in"):
        registered(store)
    with pytest.raises(UserError, match="becomes a file name"):
        register(store, "../other", "0123", None)
    with pytest.raises(UserError, match="holds a config.json"):
        register(store, "mine", str(tmp_path), None)
    with pytest.raises(UserError, match="no artifact's key starts with 'abc'"):
        register(store, "mine", "abc", None)


def test_the_first_evaluation_becomes_the_baseline(store: ArtifactStore) -> None:
    model = Model(name="mine", model="folder")
    first = evaluated(store, 60)
    verdict = judge(store, model, first, 0.5)
    assert verdict.passed
    assert verdict.miou == pytest.approx(0.64 / 2)  # road, and the class that is taken for it
    assert "the baseline from now on" in summary([verdict], {})[1]
    assert registered(store) == [Model(name="mine", model="folder", baseline=first.key)]


@pytest.mark.parametrize(
    ("right", "max_drop", "passed"), [(60, 0.5, True), (40, 0.5, False), (40, 50, True), (70, 0, True)]
)
def test_the_gate(store: ArtifactStore, right: int, max_drop: float, passed: bool) -> None:
    model = Model(name="mine", model="folder", baseline=evaluated(store, 60).key)
    verdict = judge(store, model, evaluated(store, right), max_drop)
    assert verdict.passed == passed
    headline, text = summary(
        [verdict, failed(Model(name="lost", model="x"), UserError("it is gone"))], {"acdc": "no files"}
    )
    assert headline == (
        "1 of 2 registered models failed: lost" if passed else "2 of 2 registered models failed: mine, lost"
    )
    assert ("fog: mIoU fell by" in text) != passed
    assert "- lost FAILED: it is gone" in text
    assert "- acdc was left out: no files" in text
    assert registered_names(store) == [], "a baseline stays what it is"


def registered_names(store: ArtifactStore) -> list[str]:
    return [file.stem for file in (store.root / "models").glob("*.json")]


def test_targets_that_are_not_there_are_left_out(mini: Mini, tmp_path: Path) -> None:
    for kind, shape in (("images", (4, 4, 3)), ("labels", (4, 4))):
        (tmp_path / "here" / kind).mkdir(parents=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "here" / kind / "1.png")

    def target(name: str) -> Dataset:
        return Dataset(
            name=name, root=tmp_path / name, layout="globs", images="images/*", labels="labels/*", ids="train"
        )

    def run(*names: str) -> Run:
        config = mini()
        data = config.data.model_copy(update={"toytown": None, "targets": tuple(map(target, names))})
        return Run(config.model_copy(update={"data": data}))

    left, missing = present(run("here", "gone"))
    assert [domain.name for domain in left.targets] == ["here"]
    assert list(missing) == ["gone"]
    assert str(tmp_path / "gone") in missing["gone"]
    assert present(run("here"))[1] == {}
    with pytest.raises(UserError, match="none of the config's 1 targets is there"):
        present(run("gone"))


def test_machines_that_share_a_remote_store_share_the_records(tmp_path: Path) -> None:
    one, other = (ArtifactStore(tmp_path / name, remote=f"file://{tmp_path}/remote") for name in ("one", "other"))
    judge(one, Model(name="mine", model="folder"), baseline := evaluated(one, 60), 0.5)
    assert registered(other) == [Model(name="mine", model="folder", baseline=baseline.key)]
    verdict = judge(other, registered(other)[0], evaluated(other, 40), 0.5)
    assert not verdict.passed


def test_a_record_is_replaced_whole(store: ArtifactStore) -> None:
    save(store, Model(name="mine", model="old"))
    save(store, Model(name="mine", model="new", baseline="key"))
    assert registered(store) == [Model(name="mine", model="new", baseline="key")]


RECORDS = {
    "empty": "",
    "no JSON": "name: mine",
    "a list": '["mine", "folder", null]',
    "null": "null",
    "no model": '{"name": "mine"}',
    "no name": '{"model": "folder"}',
    "model null": '{"name": "mine", "model": null}',
    "baseline a number": '{"name": "mine", "model": "folder", "baseline": 3}',
    "another field": '{"name": "mine", "model": "folder", "run": "rm -rf /"}',
    "another's name": '{"name": "yours", "model": "folder"}',
    "a name with dots": '{"name": "../mine", "model": "folder"}',
    "deep": '{"name":' * 100_000,
}


@pytest.mark.parametrize("shared", [False, True], ids=["local", "remote"])
@pytest.mark.parametrize("kind", RECORDS)
def test_damaged_records_are_one_line_and_stop_a_prune(tmp_path: Path, kind: str, shared: bool) -> None:
    """Case F16: 7 of 9 were tracebacks; taken for no record, they would let their models be deleted."""
    remote = f"file://{tmp_path}/remote" if shared else None
    store = ArtifactStore(tmp_path / "store", remote=remote)
    store.root.mkdir()
    place = tmp_path / ("remote" if shared else "store") / "models"
    save(store, Model(name="mine", model="folder"))
    (place / "mine.json").write_text(RECORDS[kind])
    with pytest.raises(UserError, match=r"damaged record .*mine\.json: .*; delete it") as error:
        registered(store)
    assert str(error.value).isprintable()
    where = ["--store", str(store.root), *(["--remote", remote] if remote else [])]
    result = CliRunner().invoke(app, ["cache", "prune", "--older-than", "0", "--yes", *where])
    assert result.exit_code == 2 and "damaged record" in result.stderr


def test_a_record_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine.json").mkdir(parents=True)
    with pytest.raises(UserError, match="it is no file"):
        registered(ArtifactStore(tmp_path))
    with pytest.raises(UserError, match="cannot write"):
        save(ArtifactStore(tmp_path), Model(name="mine", model="folder"))
