"""`flexseg cache list|verify|prune`: what is shown, what counts as damage, what may go."""

import fcntl
import io
import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.commands.tables import entries_table
from flows.registered_models import Model, save
from pipeline.files import write_json
from pipeline.store.artifacts import Artifact, ArtifactStore, Stage
from pipeline.store.inventory import Entry
from pipeline.store.manifest import sealed


def cache(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["cache", *map(str, arguments)])


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store", remote=f"file://{tmp_path}/remote", lease=5)


def make(store: ArtifactStore, stage: str, config: dict[str, object], **inputs: Artifact) -> Artifact:
    def build(folder: Path) -> None:
        (folder / "file").write_text(f"{stage} {config}")

    keys = {name: artifact.key for name, artifact in inputs.items()}
    return store.get_or_build(Stage(stage, 1), config, keys, build)


def break_off(store: ArtifactStore) -> None:
    def build(folder: Path) -> None:
        (folder / "part-1").write_text("1")
        (folder / "part-2.partial").write_text("2")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.get_or_build(Stage("broken", 1), {}, {}, build)


def runs(store: ArtifactStore) -> list[Artifact]:
    """Two runs over one world: [world, model a, report a, model b, report b]."""
    world = make(store, "world", {})
    made = [world]
    for name in "ab":
        model = make(store, "model", {"name": name}, world=world)
        made += [model, make(store, "report", {"name": name}, model=model)]
    return made


def left(folder: Path) -> set[str]:
    return {path.parent.relative_to(folder).as_posix() for path in folder.glob("*/*/manifest.json")}


def name(artifact: Artifact) -> str:
    return f"{artifact.kind}/{artifact.key[:16]}"


def test_list_says_what_is_where_and_what_is_unfinished(store: ArtifactStore, tmp_path: Path) -> None:
    shared = make(store, "model", {"name": "both"})
    alone = make(ArtifactStore(store.root), "model", {"name": "alone"})
    break_off(store)
    result = cache("list", "--store", store.root, "--remote", f"file://{tmp_path}/remote")
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in result.stdout.splitlines()]
    by_key = {row[1]: row for row in rows if len(row) == 7}
    assert by_key[shared.key[:16]][2] == "both" and by_key[alone.key[:16]][2] == "local"
    (broken,) = (row for row in by_key.values() if row[0] == "broken")
    assert broken[2] == "both" and broken[6] == "unfinished, 1 parts"
    assert "local: 3 artifacts" in result.stdout and "remote: 2 artifacts" in result.stdout


def test_list_names_who_builds(store: ArtifactStore) -> None:
    def build(folder: Path) -> None:
        text = cache("list", "--store", store.root, "--remote", store.remote.url if store.remote else "").stdout
        assert "built by a process here" in text and text.count("built by") == 2

    store.get_or_build(Stage("model", 1), {}, {}, build)


def test_an_owner_is_shown_as_it_is_written() -> None:
    """Whoever may write to a shared store may write anything into a lock."""
    entry = Entry("model", "0" * 16, Path(), None, size=1200, parts=3, owner="[red]me[/red]")
    shown = io.StringIO()
    Console(width=1000, file=shown).print(entries_table([entry]))
    assert "│ 1.2 kB │" in shown.getvalue() and "3 parts, built by [red]me[/red] │" in shown.getvalue()


@pytest.mark.parametrize("place", ["store", "remote"])
def test_verify_finds_damage_in_both_places(store: ArtifactStore, tmp_path: Path, place: str) -> None:
    runs(store)
    where = ("--store", store.root, "--remote", f"file://{tmp_path}/remote")
    whole = cache("verify", *where)
    assert whole.exit_code == 0 and "10 of 10 artifacts are whole" in whole.stdout
    files = sorted((tmp_path / place).glob("model/*/file" if place == "store" else "model/*/files/*"))
    files[0].write_text("x" * files[0].stat().st_size)
    damaged = cache("verify", *where)
    assert damaged.exit_code == 2 and "9 of 10" in damaged.stdout
    (line,) = (line for line in damaged.stderr.splitlines() if line.startswith("flexseg:"))
    assert "damaged" in line and files[0].name in line and "delete" in line


def test_prune_keeps_what_a_run_needs(store: ArtifactStore, tmp_path: Path) -> None:
    world, model_a, report_a, model_b, _ = runs(store)
    where = ("--store", store.root, "--remote", f"file://{tmp_path}/remote")
    shown = cache("prune", "--keep-run", "a", *where)
    assert shown.stdout.count("would go") == 4 and "repeat with --yes" in shown.stdout
    assert len(left(store.root)) == len(left(tmp_path / "remote")) == 5, "only shown"
    assert cache("prune", "--keep-run", "a", "--yes", *where).stdout.count("deleted: ") == 4
    assert left(store.root) == left(tmp_path / "remote") == {name(a) for a in (world, model_a, report_a)}
    assert not list((tmp_path / "remote").glob(f"{name(model_b)}/files/*"))
    nothing = cache("prune", "--keep-run", "c", *where)
    assert nothing.exit_code == 2 and "no finished run 'c'" in nothing.stderr


def test_prune_keeps_the_labels_and_the_plan_of_a_run(tmp_path: Path) -> None:
    """Issue 16: they enter no key, but what the run trained on and painted was counted and planned there."""
    store = ArtifactStore(tmp_path / "store")

    def planned(maps: str) -> list[Artifact]:
        def build(folder: Path) -> None:
            (folder / "file").write_text(maps)

        labels = store.get_or_build(Stage("labels", 1), {"height": None}, {"source": maps}, build)
        plan = store.get_or_build(Stage("plan", 1), {"counts": {"fog": 1}}, {"source": maps}, build)
        images = store.get_or_build(Stage("generated", 1), {"steps": 2}, {"source": maps}, build)
        inputs = {"source": f"{maps} and photographs", "generated": images.key}
        model = store.get_or_build(Stage("segmenter", 1), {"seed": 0}, inputs, build)
        return [labels, plan, images, model, make(store, "report", {"name": maps}, model=model)]

    kept, other = planned("mine"), planned("other")
    assert cache("prune", "--keep-run", "mine", "--yes", "--store", store.root).stdout.count("deleted: ") == 4
    assert left(store.root) == {name(artifact) for artifact in (*kept, other[0])}, "statistics are small and stay"
    for artifact in kept[3:]:
        shutil.rmtree(artifact.folder)
    cache("prune", "--older-than", 0, "--yes", "--store", store.root)
    assert not left(store.root), "nothing needs them"


def test_prune_keeps_registered_models_however_they_are_named(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    made = [make(store, "segmenter", {"n": n}) for n in range(4)]
    save(store, Model(name="by-key", model=made[0].key[:8]))
    save(store, Model(name="by-folder", model=str(made[1].folder)))
    save(store, Model(name="by-a-folder-in-it", model=str(made[2].folder / "segmenter")))
    cache("prune", "--older-than", 0, "--yes", "--store", store.root)
    assert left(store.root) == {name(artifact) for artifact in made[:3]}


def test_prune_by_age_keeps_what_younger_artifacts_were_made_from(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    world, model_a, _, model_b, report_b = runs(store)
    for artifact in (world, model_a, model_b):
        path = artifact.folder / "manifest.json"
        old = (datetime.now(UTC) - timedelta(days=40)).isoformat(timespec="seconds")
        write_json(path, sealed({**artifact.manifest.model_dump(), "finished": old}))
    assert cache("prune", "--older-than", 30, "--store", store.root).stdout.startswith("0 artifacts")
    (tmp_path / "aside").mkdir()
    report_b.folder.rename(tmp_path / "aside" / "report")
    result = cache("prune", "--older-than", 30, "--stage", "model", "--yes", "--store", store.root)
    assert f"deleted: {name(model_b)}" in result.stdout and len(left(store.root)) == 3


def test_prune_unfinished_spares_what_is_being_built(store: ArtifactStore, tmp_path: Path) -> None:
    break_off(store)
    where = ("--store", store.root, "--remote", f"file://{tmp_path}/remote", "--lease", 0.1)
    (partial,) = store.root.glob("broken/*.partial")
    with partial.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "local" not in cache("prune", "--unfinished", *where).stdout
    (remote_lock,) = (tmp_path / "remote").glob("broken/*/locks/*")
    remote_lock.write_text(json.dumps({**json.loads(remote_lock.read_text()), "released": False}))
    assert cache("prune", "--unfinished", "--yes", *where).stdout.count("deleted: unfinished broken/") == 2
    assert not partial.exists() and not remote_lock.exists()
    assert cache("prune", "--unfinished", "--yes", *where).stdout.startswith("0 artifacts")


@pytest.mark.parametrize("command", [("list",), ("verify",), ("prune", "--unfinished")])
def test_a_mistyped_place_is_one_line(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """It said "0 artifacts", as if all were lost."""
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/remote"
    make(store, "model", {})
    for where, named in (
        (("--store", "stroe"), f"{tmp_path}/stroe"),
        (("--store", "stroe", "--remote", url), f"{tmp_path}/stroe"),
        (("--store", "store", "--remote", f"{url}/prefix"), f"{url}/prefix"),
        ((), f"{tmp_path}/cache"),
    ):
        result = cache(*command, *where)
        assert result.exit_code == 2 and not result.stdout
        (line,) = result.stderr.splitlines()
        assert line.startswith("flexseg: there is no store ") and named in line
    assert cache(*command, "--remote", url).exit_code == 0, "a machine that has made nothing yet"


def test_prune_wants_to_know_what() -> None:
    result = cache("prune")
    assert result.exit_code == 2 and "--keep-run NAME, --older-than DAYS or --unfinished" in result.stderr
