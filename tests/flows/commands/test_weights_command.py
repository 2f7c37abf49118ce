"""`flexseg weights train` on a published prior, from the config to parts that `generation.weights` takes."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from generation.folders import weights_folders
from pipeline.config.weights import GeneratorParts

TUNING = {"steps": 2, "batch_size": 2, "accumulation": 2, "learning_rate": 1e-4, "warmup": 0, "schedule": "constant"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Toy town as the data set to fine-tune on, a tiny prior in Stable Diffusion's layout."""
    from tests.published import write_prior

    content = {
        "data": {"toytown": {"source_images": 3, "target_images": 1, "size": [64, 128]}},
        "weights": {
            "prior_from": str(write_prior(tmp_path / "prior")),
            "crop": [32, 32],
            "source": {**TUNING, "rare_share": 0.0, "height": 32, "gradient_checkpointing": True},
            "controlnet": {**TUNING, "rare_share": 1.0, "gradient_checkpointing": True},
        },
        "machine": {"device": "cpu", "store": str(tmp_path / "store")},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def flexseg(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_weights_are_trained_from_a_published_prior(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from generation.weights import finetune, loop
    from generation.weights.diffusion import sample

    monkeypatch.setattr(loop, "PREVIEWS", 1)
    monkeypatch.setattr(finetune, "sample", partial(sample, steps=1))
    code, out, error = flexseg("weights", "train", str(config), "--output", str(tmp_path / "out"))
    assert code == 0, error
    assert out.split() == [str(tmp_path / "out")]
    assert "Training source" in error and "Training controlnet" in error
    weights_folders(GeneratorParts(prior=str(tmp_path / "prior"), controlnet=str(tmp_path / "out/ControlNet_UNet-S")))
    code, _, error = flexseg("weights", "train", str(config), "--output", str(tmp_path / "out"))
    assert code == 0 and "Training" not in error  # finished already


def test_what_is_missing_is_said_before_any_work(config: Path, tmp_path: Path) -> None:
    def fails(*overrides: str) -> str:
        sets = [part for override in overrides for part in ("--set", override)]
        code, _, error = flexseg("weights", "train", str(config), "--output", str(tmp_path / "out"), *sets)
        assert code == 2
        assert not (tmp_path / "out").exists()
        (line,) = error.splitlines()
        return line

    assert "weights.prior_from is 'nowhere', which is neither a folder here" in fails("weights.prior_from=nowhere")
    line = fails("weights.source=yurujaja/DGInStyle/U-Net-Source-Finetuned")
    assert "weights.source: yurujaja/DGInStyle/U-Net-Source-Finetuned is no folder here" in line
    assert "'weights' or 'pretraining' section; the presets" in fails("weights=null")
    assert not (tmp_path / "store").exists()
