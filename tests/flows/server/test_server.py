"""Deployments, schedules, the gate and dead runs on a real Prefect server with PostgreSQL and a worker."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import ROOT, Cluster, available, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not available(), reason="needs PostgreSQL: apt-get install postgresql"),
]
WEBHOOK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock

words = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="gate", url=sys.argv[1], json_data=words).save("gate")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server with a worker."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster") / "files")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address on loopback, and what was posted to it."""
    posted: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", posted
    server.shutdown()


def run(cluster: Cluster, *command: str) -> str:
    """Runs python with the server's address; its output."""
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(cluster: Cluster, path: str, **body: Any) -> Any:
    answer = httpx.post(cluster.server.url + path, json=body, timeout=60)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def runs(cluster: Cluster, name: str, *states: str) -> list[dict[str, Any]]:
    """The flow runs of that name in these states, the oldest first."""
    found = ask(cluster, "/flow_runs/filter", sort="START_TIME_ASC", flow_runs={"name": {"any_": [name]}})
    return [run for run in found if run["state_type"] in states]


def test_a_schedule_reevaluates_and_the_gate_tells(
    tmp_path: Path,
    cluster: Cluster,
    webhook: tuple[str, list[dict[str, str]]],
    write_config: Callable[..., Path],
    stand_in_weights: Path,
    one_class_segmenter: Callable[[str, int], Path],
) -> None:
    url, posted = webhook
    data = {"toytown": {"source_images": 2, "target_images": 4, "size": [64, 128]}}
    machine = {"device": "cpu", "workers": 1, "timeout_hours": {"evaluation": 1}}  # so in processes of their own
    config = write_config(stand_in_weights, data=data, machine=machine)
    good, steady = one_class_segmenter("good", 0), one_class_segmenter("steady", 10)
    for folder in (good, steady):
        register = ["models", "register", folder.name, "--model", str(folder), "--store", str(tmp_path / "store")]
        run(cluster, "-m", "flows.cli", *register)
    run(cluster, "-c", WEBHOOK, url)
    deploy = ["-m", "flows.cli", "deploy", "--config", str(config), "--folder", str(tmp_path)]
    deploy += ["--cron", "* * * * *", "--notify", "custom-webhook/gate", "--gpus", "2"]
    assert "made" in run(cluster, *deploy)
    assert "there" in run(cluster, *deploy)
    counted = [len(ask(cluster, f"/{kind}/filter")) for kind in ("deployments", "work_pools", "automations")]
    assert counted == [3, 1, 1], "registering again makes nothing twice"
    cluster.worker.start()
    name = "reevaluate mini"
    until(lambda: runs(cluster, name, "COMPLETED", "FAILED"), "a scheduled run")
    assert runs(cluster, name, "FAILED") == []
    assert "baseline from now on" in posted[0]["body"]
    one_class_segmenter("good", 16)  # worse: trains everywhere instead of roads
    until(lambda: runs(cluster, name, "FAILED"), "the gate")
    (failed,) = runs(cluster, name, "FAILED")
    assert "1 of 2 registered models failed: good" in failed["state"]["message"]
    until(lambda: any("failed: good" in message["subject"] for message in posted), "the notification")
    told = next(message for message in posted if "failed" in message["subject"])
    assert "good FAILED" in told["body"] and "steady passed" in told["body"] and "mIoU fell by" in told["body"]
    artifacts = ask(cluster, "/artifacts/filter", flow_runs={"id": {"any_": [failed["id"]]}})
    assert {artifact["key"] for artifact in artifacts} >= {"registered-models", "verdicts"}


@pytest.fixture
def config(write_config: Callable[..., Path], tiny_weights: Path) -> Path:
    """The miniature with a generator that really generates."""
    return write_config(tiny_weights)


def deployed(cluster: Cluster, flow: str, **parameters: Any) -> str:
    """Starts a deployment as its form does; the id of its run."""
    found = httpx.get(f"{cluster.server.url}/deployments/name/{flow}/flexseg", timeout=60).json()
    run: str = ask(cluster, f"/deployments/{found['id']}/create_flow_run", parameters=parameters)["id"]
    return run


def state(cluster: Cluster, run: str) -> str:
    """What has become of a run; nothing while the server is away."""
    try:
        return str(httpx.get(f"{cluster.server.url}/flow_runs/{run}", timeout=60).json()["state_type"])
    except httpx.HTTPError:
        return ""


def test_a_run_outlives_the_server(tmp_path: Path, cluster: Cluster, config: Path) -> None:
    run(cluster, "-m", "flows.cli", "deploy", "--folder", str(tmp_path))
    cluster.worker.kill()
    cluster.worker.start()
    store = tmp_path / "store"
    number = deployed(cluster, "experiment", config=str(config))
    until(lambda: list(store.glob("generated/*.partial/*")), "images in the making")
    cluster.server.kill(signal.SIGKILL)
    until(lambda: list(store.glob("segmenter/*.partial")), "a stage that begins without a server")
    cluster.start_server()
    until(lambda: state(cluster, number) == "COMPLETED", "the end of the run", 600)
    assert len(list(store.glob("report/*/manifest.json"))) == 1
    assert not list(store.glob("*/*.partial"))


def test_a_run_whose_process_is_gone_counts_as_crashed(tmp_path: Path, cluster: Cluster, config: Path) -> None:
    run(cluster, "-m", "flows.cli", "deploy", "--folder", str(tmp_path))
    cluster.worker.kill()  # it would see its process die, and say so: here the whole machine is lost
    environment = {**os.environ, **cluster.environment}
    command = [sys.executable, "-m", "flows.cli", "run", str(config)]
    with (tmp_path / "out").open("wb") as out:
        flow = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
    until(lambda: list((tmp_path / "store").glob("segmenter/*.partial")), "a segmenter in the making")
    os.killpg(flow.pid, signal.SIGKILL)
    flow.wait()
    made = set((tmp_path / "store").glob("*/*/manifest.json"))
    name = "experiment mini"
    assert runs(cluster, name, "RUNNING")
    until(lambda: runs(cluster, name, "CRASHED"), "the watch for dead runs", 3 * 30 + 60)
    assert "no sign of life" in runs(cluster, name, "CRASHED")[0]["state"]["message"]
    run(cluster, "-m", "flows.cli", "run", str(config))
    assert made < set((tmp_path / "store").glob("*/*/manifest.json"))


RETRIED = """
import sys
from pathlib import Path
from prefect import flow
from flows import tasks
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import TryAgainError, UserError

tasks.FIRST_DELAY_S = 0.1
folder = Path(sys.argv[1])

def shaky(run: Run, error: type[Exception]) -> int:
    tries = len(list(folder.glob("try-*")))
    (folder / f"try-{tries}").touch()
    if tries < 2:
        raise error("not now")
    return tries

@flow
def story(error: str) -> int:
    machine = {"retries": 3, "store": str(folder)}
    run = Run(ExperimentConfig.model_validate({"name": "x", "machine": machine}))
    return tasks.task(shaky)(run, {"passing": TryAgainError, "user": UserError}[error])

print("tries", story(sys.argv[2]))
"""


def test_retries_help_where_they_can(tmp_path: Path, cluster: Cluster) -> None:
    assert "tries 2" in run(cluster, "-c", RETRIED, str(tmp_path), "passing")
    (tmp_path / "mistake").mkdir()
    with pytest.raises(AssertionError, match="UserError: not now"):
        run(cluster, "-c", RETRIED, str(tmp_path / "mistake"), "user")
    assert len(list((tmp_path / "mistake").iterdir())) == 1


GPU_FLOW = """
import sys, time
from pathlib import Path
from prefect import flow
from flows import tasks
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig

tasks._slots = lambda machine, stage: 2  # as on a machine with two GPUs

def generated(run: Run) -> None:
    start = time.time()
    time.sleep(3)
    print("INTERVAL", start, time.time(), flush=True)

@flow
def story() -> None:
    tasks.task(generated)(Run(ExperimentConfig(name="x")))

story()
"""


def test_gpus_are_shared_out(tmp_path: Path, cluster: Cluster) -> None:
    run(cluster, "-m", "flows.cli", "deploy", "--gpus", "3")
    environment = {**os.environ, **cluster.environment}
    command = [sys.executable, "-c", GPU_FLOW]
    flows = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [line for flow in flows for line in flow.communicate()[0].splitlines() if line.startswith("INTERVAL")]
    (_, end), (start, _) = sorted(tuple(map(float, line.split()[1:])) for line in lines)
    assert end <= start, "two stages of two GPUs each do not fit into three"
