"""Processes side by side: any of them may die, and they end with whoever watches them."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from pipeline.config.machine import Machine
from pipeline.errors import TryAgainError, UserError
from pipeline.work import workers
from pipeline.work.devices import out_of_memory
from pipeline.work.units import make_units
from tests.processes import alive, group_alive, start, wait_until
from tests.workloads import defect, die, forever, full_gpu, load_writer, make_empty, mistake, tell_of_itself, units_in


def test_processes_share_the_work_and_replace_their_dead(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    units = units_in(tmp_path)
    images = list(workers.watch(partial(make_units, units, partial(load_writer, 2)), ["cpu"] * 2))
    assert len(images) == 24, "an image that was lost is counted once"
    assert all(unit.done for unit in units)
    assert capfd.readouterr().err.count("ended by SIGKILL; another one takes over its file") == 2


def test_units_made_by_processes(tmp_path: Path) -> None:
    units = units_in(tmp_path, 6)
    make_empty(units[0])
    images = list(workers.run(units, partial(load_writer, 0), Machine(device="cpu", workers=2)))
    assert images == [None] * 15
    assert all(int(unit.path.read_text()) != os.getpid() for unit in units[1:])


def test_processes_that_keep_dying_are_given_up() -> None:
    with pytest.raises(TryAgainError, match="3 worker processes in a row died .* ended by SIGKILL") as caught:
        list(workers.watch(die, ["cpu"] * 2))
    assert "\n" not in str(caught.value)


def test_a_mistake_of_the_user_is_its_own_line_and_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(UserError, match=r"^labels/1.png: cannot be read$"):
        list(workers.watch(mistake, ["cpu"] * 2))
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in defect.*it is our fault"):
        list(workers.watch(defect, ["cpu"]))


def test_a_full_gpu_is_one_line_that_may_be_tried_again() -> None:
    """Issue 11: what less in flight could not help is retried as often as `machine.retries` says."""
    with pytest.raises(TryAgainError, match=r"^the GPU's memory is full \(CUDA out of memory. Tried to allocate 2 GiB"):
        list(workers.watch(full_gpu, ["cpu"]))
    assert out_of_memory(MemoryError()) is None and out_of_memory(ValueError("CUDA out of memory")) is None


def test_who_stops_watching_ends_the_processes(tmp_path: Path) -> None:
    images = workers.watch(partial(forever, tmp_path), ["cpu"] * 2)
    next(images)
    next(images)
    processes = [int(path.name) for path in tmp_path.iterdir()]
    assert len(processes) == 2 and all(map(alive, processes))
    images.close()  # type: ignore[attr-defined]  # it is a generator, which is what an interrupt closes
    assert not any(map(alive, processes))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_the_death_of_the_watcher_end_the_processes(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "from functools import partial; from pathlib import Path; import sys\n"
        "from pipeline.work.workers import watch; from tests.workloads import forever\n"
        "if __name__ == '__main__':\n    list(watch(partial(forever, Path(sys.argv[1])), ['cpu'] * 2))\n"
    )
    folder = tmp_path / "running"
    folder.mkdir()
    watcher = start(tmp_path / "script.py", script, str(folder))
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    if number == signal.SIGINT:
        os.killpg(watcher.pid, number)  # as a terminal does
    else:
        os.kill(watcher.pid, number)
    errors = watcher.communicate(timeout=60)[1]
    processes = [int(path.name) for path in folder.iterdir()]
    wait_until(lambda: not any(map(alive, processes)))
    wait_until(lambda: not group_alive(watcher.pid))  # the process that the workers were forked from, too
    assert errors.count("Traceback") == (number == signal.SIGINT), "the watcher's own, and none of a process"


def test_processes_without_a_gpu_share_what_was_imported(tmp_path: Path) -> None:
    """The module leaves a file named by the process that imports it."""
    script = (
        "import os, sys; from functools import partial; from pathlib import Path\n"
        "from pipeline.work.workers import watch; from tests.workloads import tell_of_itself\n"
        "if __name__ == '__main__':\n"
        "    for told in ('first', 'second'):\n"
        "        os.environ['FLEXSEG_TOLD'] = told\n"
        "        list(watch(partial(tell_of_itself, Path(sys.argv[1])), ['cpu'] * 2, ['slow']))\n"
    )
    imports, workers_told = tmp_path / "imports", tmp_path / "workers"
    imports.mkdir()
    workers_told.mkdir()
    (tmp_path / "slow.py").write_text(f"import os\nopen(os.path.join({str(imports)!r}, str(os.getpid())), 'w')\n")
    process = start(tmp_path / "script.py", script, str(workers_told))
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0
    (server,) = imports.iterdir()
    told = sorted(file.read_text() for file in workers_told.iterdir())
    assert told == [f"{server.name} first"] * 2 + [f"{server.name} second"] * 2


def test_processes_on_gpus_are_started_anew(tmp_path: Path) -> None:
    list(workers.watch(partial(tell_of_itself, tmp_path), ["cuda:0", "cuda:1"]))
    assert [file.read_text().split()[0] for file in tmp_path.iterdir()] == [str(os.getpid())] * 2


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_cores", lambda: 64)
    assert workers.worker_devices(Machine(device="cpu"), 100) == ["cpu"] * 4
    assert workers.worker_devices(Machine(device="cpu"), 100, 1) == ["cpu"]
    assert workers.worker_devices(Machine(device="cpu", workers=9), 100) == ["cpu"] * 9
    assert workers.worker_devices(Machine(device="cpu", workers=9), 2) == ["cpu"] * 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert workers.worker_devices(Machine(), 100) == ["cuda:0", "cuda:1"]
    assert workers.worker_devices(Machine(workers=3), 100) == ["cuda:0", "cuda:1", "cuda:0"]
