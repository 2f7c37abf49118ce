"""Generated data sets: readable by others, true to their labels, the same bytes however they were made."""

import hashlib
import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image

from generation.crops import one_hot
from generation.denoise import denoise
from generation.folders import weights_fingerprint, weights_folders
from generation.generate import generate, join
from generation.models import load_networks
from generation.plan import plan, plan_text, read_plan
from generation.schedulers import starting_noise
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from pipeline.work.units import WORK
from tests.tiny import tiny_generation, write_maps
from tests.tracks import interrupted_after

MACHINE = Machine(device="cpu", workers=1)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that an undisturbed call gives on `scenes`. Nobody changes it."""
    folder = tmp_path_factory.mktemp("whole")
    settings, scenes = tiny_generation(tiny_weights), write_maps(folder / "maps")
    generate(settings, plan(settings, scenes), scenes, folder / "set", machine=MACHINE)
    return folder / "set"


def test_a_data_set_that_others_can_open(tiny_weights: Path, whole: Path, scenes: list[Scene], tmp_path: Path) -> None:
    settings = tiny_generation(tiny_weights)
    requests = plan(settings, scenes)
    rows = load_dataset(str(whole), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 5
    planned = [json.loads(line) for line in (whole / "plan.jsonl").read_text().splitlines()]
    assert planned == [asdict(request) for request in requests]
    for row, request in zip(rows, requests, strict=True):
        assert (row["image"].size, row["image"].mode) == ((64, 32), "RGB")
        box = request.box
        label = np.asarray(Image.open(next(s.label for s in scenes if s.id == request.source)))
        cropped = label[box.top : box.top + box.height, box.left : box.left + box.width]
        np.testing.assert_array_equal(np.asarray(row["label"]), cropped)
        assert (row["prompt"], row["condition"], row["seed"]) == (request.prompt, request.condition, request.seed)
    card = (whole / "README.md").read_text()
    assert "lignment" not in card
    for count, name in ((3, "sunny"), (2, "night")):
        assert f"| {name} | {count} |" in card
    assert set(rows.column_names) == {
        line.split("|")[1].strip() for line in card.split("what it is |")[1].splitlines()[2:10]
    }


def test_an_interrupted_set_resumes_to_the_same_bytes(
    tiny_weights: Path, whole: Path, scenes: list[Scene], tmp_path: Path
) -> None:
    settings = tiny_generation(tiny_weights)
    requests = plan(settings, scenes)
    with pytest.raises(KeyboardInterrupt):
        generate(settings, requests, scenes, tmp_path / "resumed", machine=MACHINE, progress=interrupted_after(2))
    first = tmp_path / "resumed/data/train-00000-of-00003.parquet"
    made = first.stat().st_mtime_ns
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    generate(settings, requests, scenes, tmp_path / "resumed", machine=MACHINE)
    assert first.stat().st_mtime_ns == made
    assert digests(tmp_path / "resumed") == digests(whole)


def test_damaged_shards_of_an_interrupted_set_are_painted_again(
    tiny_weights: Path, whole: Path, scenes: list[Scene], tmp_path: Path
) -> None:
    """Case F07: a flipped bit and two swapped shards became the finished data set; a cut one ended every try."""
    settings = tiny_generation(tiny_weights)
    requests = plan(settings, scenes)
    shutil.copytree(whole, tmp_path / "set")
    first, second, third = sorted((tmp_path / "set/data").iterdir())
    data, other, made = first.read_bytes(), second.read_bytes(), third.stat().st_mtime_ns
    damages = [(bytes([*data[:200], data[200] ^ 4, *data[201:]]), other), (data[:-7], b""), (other, data)]
    for damaged, also in damages:
        first.write_bytes(damaged)
        second.write_bytes(also)
        generate(settings, requests, scenes, tmp_path / "set", machine=MACHINE)
        assert digests(tmp_path / "set") == digests(whole) and third.stat().st_mtime_ns == made


def test_joining_paints_what_is_left_and_leaves_the_rest_to_the_other_call(
    tiny_weights: Path, whole: Path, scenes: list[Scene], tmp_path: Path
) -> None:
    settings = tiny_generation(tiny_weights)
    requests = plan(settings, scenes)
    (tmp_path / "joined" / WORK).mkdir(parents=True)
    (tmp_path / "joined/plan.jsonl").write_text(plan_text(requests))
    join(settings, scenes, tmp_path / "joined", machine=MACHINE)
    assert {path.name for path in (tmp_path / "joined").iterdir()} == {WORK, "data", "plan.jsonl"}
    generate(settings, requests, scenes, tmp_path / "joined", machine=MACHINE)
    assert digests(tmp_path / "joined") == digests(whole)
    with pytest.raises(UserError, match="nothing to join"):
        join(settings, scenes, tmp_path / "nowhere", machine=MACHINE)


def test_another_plan_in_the_folder_is_refused(tiny_weights: Path, scenes: list[Scene], tmp_path: Path) -> None:
    settings = tiny_generation(tiny_weights)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/plan.jsonl").write_text(plan_text(plan(tiny_generation(tiny_weights, seed=1), scenes)))
    with pytest.raises(UserError, match="of another plan"):
        generate(settings, plan(settings, scenes), scenes, tmp_path / "set", machine=MACHINE)
    assert read_plan(tmp_path / "set") == plan(tiny_generation(tiny_weights, seed=1), scenes)


def test_threads_are_given_back(tiny_weights: Path, scenes: list[Scene], tmp_path: Path) -> None:
    settings = tiny_generation(tiny_weights)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generate(settings, plan(settings, scenes), scenes, tmp_path / "two", machine=MACHINE)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        generate(settings, plan(settings, scenes), scenes, tmp_path / "one", machine=MACHINE)
    finally:
        torch.set_num_threads(before)
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


def test_denoising_equals_the_pipeline_of_diffusers(tiny_weights: Path) -> None:
    settings = tiny_generation(tiny_weights, steps=3, guidance=4.0)
    networks = load_networks(str(tiny_weights), torch.device("cpu"))
    label = np.random.default_rng(0).choice(np.array([0, 10, 13, 255], np.uint8), (2, 32, 64))
    prompts = ["a sunny road", "night, car"]
    condition, noise = torch.from_numpy(one_hot(label)), starting_noise([1, 2], (4, 8, 16))
    text = torch.stack([networks.embed(["", ""]), networks.embed(prompts)])
    ours = denoise(networks, noise, condition, text, settings)
    theirs = StableDiffusionControlNetPipeline.from_pretrained(tiny_weights, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        prompts, image=condition, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="latent"
    ).images
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_mask_matters_and_the_prior_can_start_alone(tiny_weights: Path) -> None:
    networks = load_networks(str(tiny_weights), torch.device("cpu"))
    noise = starting_noise([3], (4, 8, 16))
    text = torch.stack([networks.embed([""]), networks.embed(["road"])])
    road, sky = (torch.from_numpy(one_hot(np.full((1, 32, 64), c, np.uint8))) for c in (0, 10))
    painted = {
        (name, start): denoise(networks, noise, condition, text, tiny_generation(tiny_weights, control_start=start))
        for name, condition in (("road", road), ("sky", sky))
        for start in (0.0, 1.0)
    }
    assert not torch.allclose(painted["road", 0.0], painted["sky", 0.0])
    torch.testing.assert_close(painted["road", 1.0], painted["sky", 1.0])


def test_an_images_noise_is_its_own(tiny_weights: Path) -> None:
    both, alone = starting_noise([5, 6], (4, 8, 16)), starting_noise([6], (4, 8, 16))
    assert torch.equal(both[1], alone[0])


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a set that ships with flexseg"):
        weights_folders(str(tmp_path / "nowhere"))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="lacks vae, text_encoder"):
        weights_folders(str(tmp_path))


def test_damaged_weights_are_one_line(tiny_weights: Path, tmp_path: Path) -> None:
    import shutil

    broken = Path(shutil.copytree(tiny_weights, tmp_path / "broken"))
    file = broken / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert weights_fingerprint(str(broken)) != weights_fingerprint(str(tiny_weights))
    with pytest.raises(UserError, match="does not load as a diffusers UNet2DConditionModel") as caught:
        load_networks(str(broken), torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_size_that_the_network_cannot_make(tiny_weights: Path, scenes: list[Scene], tmp_path: Path) -> None:
    settings = tiny_generation(tiny_weights, size=(30, 60))
    with pytest.raises(UserError, match="multiples of 8 px"):
        generate(settings, plan(settings, scenes), scenes, tmp_path, machine=MACHINE)


def test_images_are_png_with_exact_labels(tiny_weights: Path, scenes: list[Scene], tmp_path: Path) -> None:
    import pyarrow.parquet

    settings = tiny_generation(tiny_weights)
    generate(settings, plan(settings, scenes), scenes, tmp_path, machine=MACHINE)
    row = pyarrow.parquet.read_table(tmp_path / "data/train-00000-of-00003.parquet").to_pylist()[0]
    assert Image.open(io.BytesIO(row["image"]["bytes"])).format == "PNG"
    assert Image.open(io.BytesIO(row["label"]["bytes"])).mode == "L"
