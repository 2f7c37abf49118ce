"""What happens to a data set's label maps before the first image is painted: hashing, decoding, counting.

The old way read every label map twice, serially (class statistics, then the plan), and knew files by size and time. The
new way reads them once to hash and once to count, in threads. `python -m benchmarks.first_image [COUNT]`.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Row, record
from pipeline.config.data import Dataset
from pipeline.data.datasets import Scene, find_scenes
from pipeline.data.fingerprints import FileDigests, labels_fingerprint
from pipeline.data.labels import IGNORE, NUM_CLASSES, TRAIN_IDS
from pipeline.data.statistics import count_labels
from pipeline.store.manifest import canonical_digest
from pipeline.toytown import render_source

GTA = Path(__file__).parents[2] / "shared" / "data" / "gta_labels"
SIZE = (1052, 1914)
WHOLE = 24966  # GTA5


def measure(count: int) -> None:
    """Times both ways on `count` label maps, checks that they count the same, and records it."""
    with tempfile.TemporaryDirectory() as folder:
        what = _write_maps(Path(folder) / "maps", count)
        root = Path(folder) / "maps"
        scenes = find_scenes(Dataset(name="gta", root=root, layout="globs", labels="*.png", ids="train"))
        digests = FileDigests(Path(folder) / "store")
        new_counts: list[np.ndarray] = []
        steps: dict[str, Callable[[], object]] = {
            "old: key by size and time": lambda: _old_fingerprint(scenes),
            "old: class statistics, serial": lambda: _old_counts(scenes),
            "old: the plan's counts, serial": lambda: _old_plan_counts(scenes),
            "new: key by content": lambda: labels_fingerprint("gta", scenes, digests),
            "new: key by content, once more": lambda: labels_fingerprint("gta", scenes, digests),
            "new: class statistics and the plan's counts": lambda: new_counts.append(count_labels(scenes).shrunk),
        }
        for path in root.iterdir():
            path.read_bytes()  # both ways find the files in memory
        rows: list[Row] = []
        results = []
        for name, work in steps.items():
            start, cpu = time.perf_counter(), time.process_time()
            results.append(work())
            rows.append(_row(name, time.perf_counter() - start, time.process_time() - cpu, count))
        np.testing.assert_array_equal(results[1], results[2])
        np.testing.assert_array_equal(results[1], new_counts[0])
    both = [[sum(float(row[what]) for row in part) for what in ("s", "CPU s")] for part in (rows[:3], rows[3:6:2])]
    (old, old_cpu), (new, new_cpu) = both
    rows += [_row("old, all", old, old_cpu, count), _row("new, all", new, new_cpu, count)]
    title = (
        f"Before the first image: {count} label maps of {SIZE[1]}x{SIZE[0]} px ({what}), files in memory; old / new ="
        f" {old / new:.1f} (aim: {WHOLE:,} maps in 180 s on 2 cores); load average {os.getloadavg()[0]:.1f}"
    )
    record("first_image", title, rows, ("numpy", "pillow"))


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
