"""What happens to a data set's label maps before the first image is painted: hashing, decoding, counting, planning.

The old way decoded every label map twice, serially (class statistics, then the plan), and one for every planned image;
it knew files by size and time. The new way reads headers, hashes all files, decodes each once to count it, and once
more those that are planned on, all in threads. `python -m benchmarks.first_image [COUNT]`.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Row, record
from flows.domains import Domain
from generation.plan import plan
from pipeline.config.data import Dataset
from pipeline.config.experiment import load_config
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.fingerprints import FileDigests, labels_fingerprint
from pipeline.data.labels import IGNORE, NUM_CLASSES, TRAIN_IDS
from pipeline.data.statistics import Statistics, count_labels
from pipeline.requests import GenerationRequest
from pipeline.store.manifest import canonical_digest
from pipeline.toytown import render_source

GTA = Path(__file__).parents[2] / "shared" / "data" / "gta_labels"
SIZE = (1052, 1914)
WHOLE, IMAGES = 24966, 7000
"""Label maps of GTA5, and images of the gta-dginstyle preset."""


Steps = Mapping[str, Callable[[], object]]


def measure(count: int) -> None:
    """Times both ways on `count` label maps, checks that they count the same, and records it."""
    with tempfile.TemporaryDirectory() as folder:
        what = _write_maps(Path(folder) / "maps", count)
        found = find_scenes(
            Dataset(name="gta", root=Path(folder) / "maps", layout="globs", labels="*.png", ids="train")
        )
        scenes = [replace(scene, image=scene.label) for scene in found]  # of images only headers are read
        for scene in scenes:
            scene.label.read_bytes()  # both ways find the files in memory
        counted: list[Statistics] = []
        planned: list[GenerationRequest] = []
        new = _timed("new", _new_steps(scenes, FileDigests(Path(folder) / "store"), counted, planned), count)
        old_counts: list[np.ndarray] = []
        old = _timed("old", _old_steps(scenes, planned, old_counts), count)
        for counts in old_counts:
            np.testing.assert_array_equal(counts, counted[0].pixels)
    title = (
        f"Before the first of {len(planned)} images is painted: {count} label maps of {SIZE[1]}x{SIZE[0]} px ({what}),"
        f" files in memory; old / new = {float(old[-1]['s']) / float(new[-1]['s']):.1f} (aim: {WHOLE:,} maps and"
        f" {IMAGES:,} images in 180 s on 2 cores); load average {os.getloadavg()[0]:.1f}"
    )
    record("first_image", title, [*old, *new], ("numpy", "pillow"))


def _new_steps(
    scenes: Sequence[Scene], digests: FileDigests, counted: list[Statistics], planned: list[GenerationRequest]
) -> Steps:
    config = load_config("gta-dginstyle").generation
    assert config is not None
    share = len(scenes) / WHOLE
    fewer = config.model_copy(update={"counts": {c: round(n * share) for c, n in config.counts.items()}})
    return {
        "sizes by headers": lambda: Domain("gta", lambda: list(scenes), digests).sizes,
        "key by content": lambda: labels_fingerprint("gta", scenes, digests),
        "class statistics": lambda: counted.append(count_labels(scenes, config.label_height)),
        "the plan": lambda: planned.extend(plan(fewer, scenes, pixels=counted[0].shrunk)),
    }


def _old_steps(scenes: Sequence[Scene], planned: Sequence[GenerationRequest], counted: list[np.ndarray]) -> Steps:
    by_id = {scene.id: scene for scene in scenes}
    return {
        "key by size and time": lambda: _old_fingerprint(scenes),
        "class statistics, serial": lambda: counted.append(_old_counts(scenes)),
        "the plan's counts, serial": lambda: counted.append(_old_plan_counts(scenes)),
        "the plan, a map per image": lambda: [_old_label(by_id[request.source]) for request in planned],
    }


def _timed(way: str, steps: Steps, count: int) -> list[Row]:
    """A row for each step and one for all."""
    rows: list[Row] = []
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for name, work in steps.items():
        start, cpu = time.perf_counter(), time.process_time()
        work()
        rows.append(_row(f"{way}: {name}", time.perf_counter() - start, time.process_time() - cpu, count))
    return [*rows, _row(f"{way}, all", time.perf_counter() - begin, time.process_time() - begin_cpu, count)]


def _row(name: str, seconds: float, cpu: float, count: int) -> Row:
    scale = WHOLE / count
    return {"what": name, "s": seconds, "CPU s": cpu, f"s for {WHOLE}": seconds * scale, "CPU s for them": cpu * scale}


def _write_maps(folder: Path, count: int) -> str:
    """`count` files of GTA's size, all their own (copies, no links)."""
    folder.mkdir()
    files = sorted(GTA.rglob("*.png"))
    contents = [file.read_bytes() for file in files]
    what = f"copies of {len(files)} label maps of GTA5"
    if not files:
        label = np.kron(render_source(0, 0, (96, 192)).label, np.ones((11, 10), np.uint8))[: SIZE[0], : SIZE[1]]
        Image.fromarray(label).save(folder / "made.png")
        contents, what = [(folder / "made.png").read_bytes()], "copies of an enlarged label map of toy town"
        (folder / "made.png").unlink()
    for k, content in enumerate(islice(cycle(contents), count)):
        (folder / f"{k:05d}.png").write_bytes(content)
    return what


def _old_fingerprint(scenes: Sequence[Scene]) -> str:
    states = [(scene, scene.label.stat()) for scene in scenes]
    return canonical_digest([[s.id, sorted(s.ids.items()), t.st_size, t.st_mtime_ns] for s, t in states])


def _old_label(scene: Scene) -> np.ndarray:
    table = np.full(IGNORE + 1, 254, np.uint8)
    for stored, train_id in TRAIN_IDS.items():
        table[stored] = train_id
    with Image.open(scene.label) as image:
        label = table[np.asarray(image)]
    assert not (label == 254).any()
    return label


def _old_counts(scenes: Sequence[Scene]) -> np.ndarray:
    return np.stack([np.bincount(_old_label(s).ravel(), minlength=IGNORE + 1)[:NUM_CLASSES] for s in scenes])


def _old_plan_counts(scenes: Sequence[Scene]) -> np.ndarray:
    return np.stack([np.array(Image.fromarray(_old_label(s)).histogram()[:NUM_CLASSES]) for s in scenes])


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
