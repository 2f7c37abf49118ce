"""The rehearsal's makers at a small size: data sets and networks that the real readers take; configs; memory."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPTokenizer

from benchmarks.rehearsal import memory
from benchmarks.rehearsal.__main__ import FIRST, real_presets
from benchmarks.rehearsal.configs import Places, write_config
from benchmarks.rehearsal.memory import Look, read_looks, spent, watched
from benchmarks.rehearsal.networks import write_encoder, write_tokenizer
from benchmarks.rehearsal.tree import SETS, THING, enlarged, thing_in_a_corner, write_tree
from generation.fusion import kept_cells, second_pass_windows
from pipeline.config.experiment import load_config
from pipeline.config.machine import Machine
from pipeline.config.training import NetworkConfig
from pipeline.data.datasets import find_scenes, load_pair, pair_size
from pipeline.data.labels import CLASS_NAMES, TRAIN_IDS, load_label_map
from training.encoders import pretrained_encoder

SHRINK = 8


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    label = np.random.default_rng(0).choice([*range(19), 255], size=(40, 80)).astype(np.uint8)
    (folder / "maps").mkdir()
    Image.fromarray(label).save(folder / "maps" / "one.png")
    write_tree(folder / "data", None, folder / "maps", SHRINK)
    return folder


@pytest.mark.parametrize("preset", real_presets())
def test_every_data_set_of_the_presets_is_found_and_holds_the_given_label_map(tree: Path, preset: str) -> None:
    config = load_config(write_config(preset, Places(tree), whole=True, half=True))
    assert config.data.source is not None
    truth = load_label_map(tree / "maps" / "one.png", TRAIN_IDS)
    for data_set in (config.data.source, *config.data.targets):
        made = SETS[data_set.root.name]
        scenes = find_scenes(data_set)
        assert len(scenes) == len(made.files)
        for scene in scenes:
            file = next(file for file in made.files if str(scene.image).endswith(file.image))
            if file.label_size is not None:
                assert pair_size(scene) is None
                continue
            image, label = load_pair(scene)
            assert label.shape == image.shape[:2] == (file.size[0] // SHRINK, file.size[1] // SHRINK)
            assert image.std() > 10
            if data_set is not config.data.source:
                assert (label == enlarged(truth, (label.shape[0], label.shape[1]))).all()
            with Image.open(scene.label) as stored:
                assert (stored.mode == "P") == made.palette
        if data_set.name == "acdc":
            assert {scene.condition for scene in scenes} == {"fog", "night", "rain", "snow"}


def test_a_rare_things_image_has_as_many_windows_as_a_call_takes() -> None:
    """Wherever in the thing the crop is centred, it is the map's corner, and only the thing is painted anew."""
    config = load_config("gta-dginstyle").generation
    assert config is not None and config.fusion is not None
    label = thing_in_a_corner((1052, 1914), 16, THING)
    assert (label == 16).sum() > config.rare_class_pixels
    crop = label[: config.size[0], : config.size[1]]
    free = ~kept_cells(crop, (128, 128), config.fusion)
    windows = second_pass_windows(free[None], (64, 64), config.fusion)
    assert len(windows) == Machine().window_batch
    assert free[:32, :32].all() and free.sum() == 32 * 32


@pytest.mark.parametrize("preset", real_presets())
def test_a_rehearsal_changes_counts_steps_iterations_and_paths_alone(tmp_path: Path, preset: str) -> None:
    before = load_config(preset).model_dump()
    after = load_config(write_config(preset, Places(tmp_path), whole=preset == FIRST, half=True)).model_dump()
    if preset != FIRST:
        assert [target["name"] for target in after["data"]["targets"]] == ["mapillary"]
        before["data"]["targets"] = before["data"]["targets"][-1:]
        before["evaluation"]["size"] = {n: s for n, s in after["evaluation"]["size"].items() if s is None} | {
            "mapillary": before["evaluation"]["size"]["mapillary"]
        }
    changed = {path for path in _differing(before, after) if not path.startswith("machine.")}
    allowed = {
        "data.source.root", "data.targets.root", "data.targets.take", "generation.weights.prior",
        "generation.weights.controlnet", "generation.counts", "generation.steps", "training.seeds",
        "training.iterations", "training.validation_scenes", "training.network.pretrained",
        "training.source_pool.pairs",
    }  # fmt: skip
    assert changed <= allowed
    assert {"data.source.root", "generation.steps", "training.iterations"} <= changed


def _differing(before: Any, after: Any, path: str = "") -> set[str]:
    """Paths at which two dumped configs differ, without the places of lists and the names of counts."""
    if isinstance(before, dict) and before.keys() == after.keys() and not path.endswith("counts"):
        return {p for key in before for p in _differing(before[key], after[key], f"{path}.{key}".strip("."))}
    if isinstance(before, list | tuple) and before and isinstance(before[0], dict):
        return {p for old, new in zip(before, after, strict=True) for p in _differing(old, new, path)}
    return set() if before == after else {path}


def test_the_tokenizer_knows_every_word_of_the_prompts(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    words = tokenizer.tokenize(f"A city street scene with {', '.join(CLASS_NAMES)}, in foggy weather.")
    assert tokenizer.unk_token not in words
    assert "vegetation</w>" in words
    assert tokenizer("road").input_ids[::2] == [49_406, 49_407]  # CLIP's own start and end


def test_the_encoder_loads_as_a_published_one(tmp_path: Path) -> None:
    sizes = NetworkConfig(pretrained=None, hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))
    write_encoder(tmp_path, sizes)
    encoder = pretrained_encoder(str(tmp_path), drop_path=0.1)
    assert list(encoder.config.hidden_sizes) == [8, 8, 16, 16]
    assert encoder.config.num_labels == 1000


def test_a_command_is_looked_at_with_all_that_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "EVERY_S", 0.05)
    child = "import time; kept = bytearray(b'x') * 100_000_000\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])\nsys.exit(3)"
    log = tmp_path / "looks.jsonl"
    assert watched([sys.executable, "-c", parent], log) == 3
    looks = read_looks(log)
    assert 100e6 < max(look.memory for look in looks) < 300e6
    assert max(look.processor for look in looks) >= 0.3


def test_what_was_seen_between_two_moments(tmp_path: Path) -> None:
    log = tmp_path / "looks.jsonl"
    # at 1000 s, and again from 2000 s on, after a kill: its time starts at 0 again
    log.write_text("[1000, 5, 1.0]\n[1010, 7, 9.0]\n[2000, 6, 0.5]\n[2010, 3, 4.5]\n[20", encoding="utf-8")
    looks = read_looks(log)
    assert looks == [Look(1000, 5, 1.0), Look(1010, 7, 9.0), Look(2000, 6, 0.5), Look(2010, 3, 4.5)]
    whole = spent(looks, datetime.fromtimestamp(999, UTC), datetime.fromtimestamp(2020, UTC))
    assert whole == (7, 8.0 + 4.0)
    assert spent(looks, datetime.fromtimestamp(1995, UTC), datetime.fromtimestamp(2020, UTC)) == (6, 4.0)
    assert spent(looks, datetime.fromtimestamp(3000, UTC), datetime.fromtimestamp(3020, UTC)) is None
