"""What `flexseg plan` says: what is asked for, how long it takes if that was measured, what is there already."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import stages
from flows.cli import app
from flows.commands.painting_rate import known_rate
from flows.commands.trainings import trainings_text
from flows.recipes import generated_recipe
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig, load_config
from pipeline.work.units import DIGEST, WORK

Mini = Callable[..., ExperimentConfig]


@pytest.fixture
def config(write_config: Callable[..., Path], stand_in_weights: Path) -> Path:
    return write_config(stand_in_weights)


def flexseg(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def build_images(run: Run) -> None:
    """A finished artifact in place of generated images."""
    run.store.get_or_build(*generated_recipe(run), lambda folder: None)


def test_what_is_asked_for_and_what_is_there(config: Path, tmp_path: Path) -> None:
    first = flexseg("plan", str(config), "--write", str(tmp_path / "list.jsonl"))
    assert "4 images of 64x32 px on " in first and " of 8 label maps, in 2 shards; 0.0 MB" in first
    assert "not yet measured" in first and "to be made" in first
    table = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in first.splitlines() if "│" in line}
    assert [cell.strip() for cell in table["all"]] == ["2", "2", "4", "100.0%"]
    assert [cell.strip() for cell in table["share"]] == ["50.0%", "50.0%", "100.0%", "100.0%"]
    rows = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["foggy-000000", "foggy-000001", "plain-000000", "plain-000001"]

    refused = CliRunner().invoke(app, ["plan", str(config), "--write", str(tmp_path / "list.jsonl")])
    assert refused.exit_code == 2 and "name a new file" in refused.stderr

    run = Run(load_config(config))
    shard = run.store.partial(*generated_recipe(run)) / "data/train-00001-of-00002.parquet"
    shard.parent.mkdir(parents=True)
    shard.touch()
    (shard.parents[1] / WORK).mkdir()
    (shard.parents[1] / WORK / f"{shard.name}{DIGEST}").touch()
    assert "1 of 2 shards made" in flexseg("plan", str(config))

    build_images(run)
    last = flexseg("plan", str(config))
    assert "4 images that were painted here on " in last and "none is left" in last and "made, took" in last


def test_a_plan_of_toy_town_renders_nothing(config: Path, tmp_path: Path) -> None:
    said = flexseg("plan", str(config))
    assert "4 images of 64x32 px: foggy 2, plain 2" in said and "Toy town is not rendered yet" in said
    assert "to be made" in said
    assert not (tmp_path / "store" / "world").exists()


def test_the_plan_is_made_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(load_config(config))
    first = stages.planned(run)

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr("generation.plan.plan", never)
    settings = ["generation.steps=9", "generation.shard_size=1", "alignment.radius=3"]
    assert stages.planned(Run(load_config(config, settings))).key == first.key
    with pytest.raises(AssertionError, match="planned again"):
        stages.planned(Run(load_config(config, ["generation.counts.night=1"])))


def test_a_prompt_that_would_be_cut_is_said_when_it_is_planned(config: Path, tmp_path: Path) -> None:
    """Case 08: `flexseg plan` and `generate` said nothing, and the weather at the prompt's end was lost."""
    words = "a long and winding description of a street " * 12
    settings = ["--set", f"generation.conditions={{foggy: '{words} with {{classes}} in foggy weather'}}"]
    for command in (["plan", str(config), "--write", str(tmp_path / "list.jsonl")], ["generate", str(config)]):
        refused = CliRunner().invoke(app, [*command, *settings])
        assert refused.exit_code == 2, refused.output
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("flexseg:")]
        assert "generation.conditions.foggy: the prompt of request foggy-000000 has" in line and "would be lost" in line


def test_a_rate_is_of_images_that_were_painted_alike_and_here(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_rate(Run(mini())) is None
    run = Run(mini())
    build_images(run)
    seconds = run.history[-1][1].manifest.seconds
    alike = ("generation.counts.night=9", "generation.seed=3", "generation.shard_size=1")
    for overrides in ((), alike):
        rate = known_rate(Run(mini(*overrides)))
        assert rate is not None and rate.images == pytest.approx(4 / seconds)
    for override in ("generation.steps=3", "generation.size=[64, 64]"):
        assert known_rate(Run(mini(override))) is None
    monkeypatch.setattr("flows.commands.painting_rate.provenance", lambda: {"host": "elsewhere"})
    assert known_rate(Run(mini())) is None


def test_nothing_to_join_is_one_line(config: Path) -> None:
    result = CliRunner().invoke(app, ["generate", str(config), "--join"])
    assert result.exit_code == 2
    assert "nothing to join, no images are being painted in" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("gpus", "settings", "said"),
    [
        (0, [], "3 trainings are left, one after the other"),
        (2, [], "3 trainings are left, 2 at a time on 2 GPUs: 2 rounds"),
        (8, [], "3 trainings are left, 3 at a time on 8 GPUs; machine.processes=2 would use 6 of them"),
        (8, ["training.accumulation=2"], "3 trainings are left, 3 at a time on 8 GPUs"),
        (8, ["machine.processes=2"], "3 trainings are left, 3 at a time on 8 GPUs"),
        (8, ["training.methods={only: {}}"], "1 training is left"),
        (0, ["machine.executor=ray"], "3 trainings are left, as many at a time as the Ray cluster has room for"),
    ],
)
def test_how_the_trainings_share_the_gpus(
    mini: Mini, gpus: int, settings: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    config = mini("machine.device=auto", *settings)
    assert trainings_text(config, len(config.training.methods)) == said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["machine.processes=3"],
            "batch_size 2 does not divide over 3 processes in training.accumulation 1 parts: take 1, 2 processes, or"
            " make it a multiple of 3 (another model)",
        ),
        (
            ["training.methods={a: {}, b: {training: {accumulation: 4}}}"],
            "batch_size 2 does not divide over 1 processes in training.accumulation 4 parts: make it a multiple of 4",
        ),
    ],
)
def test_a_batch_that_does_not_divide_is_said_by_the_plan_and_refused_by_run(
    config: Path, settings: list[str], said: str
) -> None:
    options = [word for setting in settings for word in ("--set", setting)]
    assert f"trainings are left, which flexseg run refuses: training.{said}" in flexseg("plan", str(config), *options)
    last = list(load_config(config, settings).training.methods)[-1]
    for command in (["run", str(config)], ["train", str(config), "--method", last]):
        refused = CliRunner().invoke(app, [*command, *options])
        assert refused.exit_code == 2 and f"flexseg: training.{said}" in refused.stderr, refused.output


def test_what_is_not_made_yet_has_a_cost_on_a_card(config: Path) -> None:
    said = flexseg("plan", str(config), "--card", "a100", "--utilisation", "0.5")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if "│" in line]
    rows = {row[0]: row[1:] for row in lines if len(row) == 7}
    assert rows["painting"][0] == "4 images" and set(rows) > {"scoring"}
    # toy town's config computes in float32: a fifteenth of 312 TFLOPS, half of which are reached
    for amount, petaflop, precision, memory, hours, _ in rows.values():
        assert precision == "fp32" and memory.endswith(" GB") and amount
        assert float(hours) == pytest.approx(float(petaflop) * 1e15 / (312e12 / 15 * 0.5) / 3600, rel=0.02)
    assert "estimated, not measured" in said and "at 50% (assumed; --utilisation) of 312 TFLOPS" in said
    refused = CliRunner().invoke(app, ["plan", str(config), "--card", "h1000"])
    assert refused.exit_code == 2 and refused.stderr.startswith("flexseg: --card is 'h1000': name one of a100")
