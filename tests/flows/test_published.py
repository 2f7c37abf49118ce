"""Published weights through the command line: checkpoints are converted and then read like our own, encoders are looked
for before long work."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import interpolate
from typer.testing import CliRunner

from flows.cli import app
from flows.run import Run
from flows.segmenters import find_model, load_network
from pipeline.config.experiment import load_config


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_golden_convert(golden: Path, tmp_path: Path, suffix: str) -> None:
    checkpoint = golden / "daformer_mmseg.safetensors"
    reference = load_file(golden / "daformer_reference.safetensors")
    if suffix == ".pth":
        checkpoint = tmp_path / "latest.pth"
        torch.save({"state_dict": load_file(golden / "daformer_mmseg.safetensors"), "meta": {}}, checkpoint)
    result = CliRunner().invoke(app, ["convert", str(checkpoint), "--output", str(tmp_path / "converted")])
    assert result.exit_code == 0, result.output
    run = Run(load_config("toy", [f"machine.store={tmp_path / 'store'}"]))
    _, folder = find_model(run.store, result.stdout.strip())
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    with torch.inference_mode():
        logits = load_network(folder, torch.device("cpu"))(reference["input"] * deviation + mean)
        logits = interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    # tests/golden holds the pixels of every `logits.stride`-th row and column, the full set all of them.
    stride = int(reference.get("logits.stride", 1))
    logits, wanted = logits[..., ::stride, ::stride], reference["logits"]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))

    again = CliRunner().invoke(app, ["convert", str(checkpoint), "--output", str(tmp_path / "converted")])
    assert again.exit_code == 2
    assert "exists and is not an empty folder" in again.stderr


def test_what_can_not_be_converted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"no checkpoint")
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "other.pth"), "--output", str(tmp_path / "new")])
    assert result.exit_code == 2
    assert result.stderr.startswith("flexseg: checkpoint") and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    command = [
        "evaluate",
        "toy",
        "--set",
        f"machine.store={tmp_path / 'store'}",
        "--model",
        str(tmp_path / "other.pth"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "flexseg convert" in result.stderr


def test_an_encoder_that_is_not_there_is_missed_at_once(tmp_path: Path) -> None:
    settings = (f"machine.store={tmp_path / 'store'}", "training.network.pretrained=nvidia/mit-none")
    result = CliRunner().invoke(app, ["run", "toy", "--set", settings[0], "--set", settings[1]])
    assert result.exit_code == 2
    assert "run 'hf download nvidia/mit-none config.json model.safetensors --local-dir DIR'" in result.stderr
    assert not list((tmp_path / "store").glob("*"))


def test_an_encoder_s_content_enters_the_key(tmp_path: Path) -> None:
    keys = set()
    for content in ("first", "second"):
        (tmp_path / "config.json").write_text(content)
        keys.add(Run(load_config("toy", [])).encoder_key(str(tmp_path)))
    assert len(keys) == 2 and None not in keys
    assert Run(load_config("toy", [])).encoder_key("nvidia/mit-b5") is None
