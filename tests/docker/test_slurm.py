"""docker/slurm/flexseg.sbatch on a real Slurm, of one controller and two nodes on this machine."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import wait_until

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ITEMS = 12
# Stands in for flexseg: items of a second each, kept in a file; SIGTERM ends it.
STAND_IN = f"""#!{sys.executable}
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
done = Path("done.txt")
print("arguments", *sys.argv[1:], flush=True)
while len(done.read_text().splitlines() if done.exists() else []) < {ITEMS}:
    time.sleep(1)
    with done.open("a") as file:
        file.write(os.environ.get("SLURM_RESTART_COUNT", "0") + "\\n")
"""


def ports(count: int) -> list[int]:
    """Free ports of this machine."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    numbers = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return numbers


def config(folder: Path) -> str:
    """A cluster whose two nodes are this machine."""
    host, (controller, *nodes) = socket.gethostname(), ports(3)
    lines = [f"NodeName=n{k} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2" for k, port in enumerate(nodes)]
    return f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthInfo=socket={folder}/munge
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
{chr(10).join(lines)}
PartitionName=all Nodes=n0,n1 Default=YES State=UP
"""


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to submit from, with a Slurm behind it."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not here (Debian: slurm-wlm munge)")
    if os.geteuid():
        pytest.skip("slurmd wants to be root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    key = folder / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(config(folder))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("FLEXSEG_BIN", str(folder))
    monkeypatch.chdir(folder)
    files = {"key-file": "key", "socket": "munge", "pid-file": "m.pid", "log-file": "munge.log", "seed-file": "seed"}
    munge = ["munged", "--force", *(f"--{name}={folder / file}" for name, file in files.items())]
    try:
        for command in (munge, ["slurmctld"], ["slurmd", "-N", "n0"], ["slurmd", "-N", "n1"]):
            subprocess.run(command, check=True)
        wait_until(lambda: run("sinfo", "--noheader", "--format=%t %D") == "idle 2")
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root"], check=False)
        wait_until(lambda: run("squeue", "--noheader") == "")
        for pid in folder.glob("*.pid"):
            os.kill(int(pid.read_text()), 15)
        shutil.rmtree(folder, ignore_errors=True)


def run(*command: str) -> str:
    """What a Slurm command says."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def submit(folder: Path, stand_in: str, *options: str) -> str:
    """The job's number."""
    (folder / "flexseg").write_text(stand_in)
    (folder / "flexseg").chmod(0o755)
    script = str(ROOT / "docker" / "slurm" / "flexseg.sbatch")
    return run("sbatch", "--parsable", "--gpus-per-node=0", *options, script, "run", "toy")


@pytest.mark.slow
def test_a_job_near_its_limit_is_queued_again_and_continues(slurm: Path) -> None:
    job, done = submit(slurm, STAND_IN, "--cpus-per-task=1"), slurm / "done.txt"
    wait_until(lambda: done.exists() and len(done.read_text()) >= 4)
    run("scancel", "--signal=USR1", "--batch", job)  # what --signal=B:USR1@300 does five minutes before the limit
    wait_until(lambda: run("squeue", "--noheader", "--format=%T %r", f"--jobs={job}") == "PENDING BeginTime")
    run("scontrol", "update", f"jobid={job}", "StartTime=now")  # Slurm would wait two minutes
    wait_until(lambda: len(done.read_text().split()) == ITEMS)
    runs = done.read_text().split()
    assert runs == sorted(runs) and set(runs) == {"0", "1"}
    log = (slurm / f"flexseg-{job}.log").read_text()
    assert log.count("arguments run toy\n") == 2
    assert log.count("is queued again and continues") == 1
