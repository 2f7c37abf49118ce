"""`flexseg compare` and the gate: what a name means, the answer in one line, exit codes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from evaluation.counts import no_counts, stack
from flows.cli import app
from flows.comparison import evaluations
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.labels import NUM_CLASSES
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from tests.scored import write_evaluation

SCENES = 9


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def evaluated(store: ArtifactStore) -> Callable[[int], Artifact]:
    """An evaluation on `fog` with about `right` of every scene's 100 px of road right."""

    def evaluation(right: int) -> Artifact:
        def build(folder: Path) -> None:
            rows = []
            for k in range(SCENES):
                confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
                confusion[0, :2] = right + k, 100 - right - k
                rows.append((f"scene{k}", None, no_counts(1)._replace(confusion=confusion)))
            write_evaluation(folder, {"fog": stack(rows, 1)}, EvaluationConfig(band=5, curve=()))

        return store.get_or_build(Stage("evaluation", 2), {"right": right}, {}, build)

    return evaluation


def report(store: ArtifactStore, **rows: Artifact) -> Artifact:
    inputs = {f"{name.replace('_', ' ')} evaluation": artifact.key for name, artifact in rows.items()}
    return store.get_or_build(Stage("report", 1), {}, inputs, lambda folder: write_json(folder / "report.json", {}))


def flexseg(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_names_of_evaluations(store: ArtifactStore, evaluated: Callable[[int], Artifact], tmp_path: Path) -> None:
    one, two, three = (evaluated(right) for right in (50, 60, 70))
    run = report(store, **{"flex-seg_0": one, "flex-seg_1": two, "source-only_0": three})
    link = tmp_path / "runs"
    link.symlink_to(run.folder)
    assert evaluations(one.key[:16], store) == evaluations(str(one.folder), store) == [one.folder]
    for place in (str(link), run.key[:16]):
        assert evaluations(f"{place}:flex-seg", store) == [one.folder, two.folder]
        assert evaluations(f"{place}:source-only", store) == [three.folder]
        with pytest.raises(UserError, match="several methods: name one of flex-seg, source-only"):
            evaluations(place, store)
    with pytest.raises(UserError, match=r"neither an evaluation\.json nor"):
        evaluations(str(tmp_path), store)
    segmenter = store.get_or_build(Stage("segmenter", 1), {}, {}, lambda folder: None)
    with pytest.raises(UserError, match="flexseg evaluate CONFIG --model KEY"):
        evaluations(segmenter.key, store)


def test_compare_answers_in_one_line(store: ArtifactStore, evaluated: Callable[[int], Artifact]) -> None:
    keys = [evaluated(right).key[:16] for right in (50, 60)]
    result = flexseg("compare", *keys, "--store", str(store.root))
    assert result.exit_code == 0, result.output
    last = result.stdout.splitlines()[-1]
    assert last.startswith(f"{keys[1]} is better than {keys[0]}: +") and "95% interval" in last and "p = 0.00" in last
    assert last.endswith("one seed says nothing about their methods).")
    same = flexseg("compare", keys[0], keys[0], "--store", str(store.root))
    assert same.stdout.splitlines()[-1].startswith("No difference that could not be chance")
    assert "p = 1 (about" in same.stdout.splitlines()[-1]


@pytest.mark.parametrize(("before", "code"), [(50, 0), (55, 0), (80, 3)])
def test_the_gate(
    tmp_path: Path,
    write_config: Callable[..., Path],
    stand_in_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluated: Callable[[int], Artifact],
    before: int,
    code: int,
) -> None:
    baseline, now = evaluated(before), evaluated(55)
    config = write_config(stand_in_weights)
    monkeypatch.setattr("flows.segmenters.find_model", lambda run, name: ("key", tmp_path))
    monkeypatch.setattr("flows.stages.evaluation", lambda run, key, folder: now)
    monkeypatch.setattr("flows.commands.summary.print_evaluation", lambda evaluation: True)
    arguments = ["evaluate", str(config), "--model", "any", "--baseline", baseline.key[:16]]
    result = flexseg(*arguments, "--max-drop", "0.5")
    assert result.exit_code == code, result.output
    assert ("more than the 0.5 that are allowed" in result.stderr) == (code == 3)
    assert flexseg(*arguments).exit_code == 0


def test_a_limit_needs_a_baseline(write_config: Callable[..., Path], stand_in_weights: Path) -> None:
    result = flexseg("evaluate", str(write_config(stand_in_weights)), "--model", "any", "--max-drop", "1")
    assert result.exit_code == 2 and "add --baseline" in result.stderr
