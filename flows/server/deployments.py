"""Registers the flows on a Prefect server: `prefect.yaml` by Prefect's own code, and what that file cannot hold."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint

from flows.server.local_server import HEARTBEAT_S, reachable_server
from flows.tasks import GPU_LIMIT
from pipeline.errors import UserError

FILE = Path(__file__).parents[2] / "prefect.yaml"
WATCH = "flexseg: dead runs"
HEARTBEATS_MISSED = 3


def deploy(
    folder: Path, *, pool: str | None, cron: str | None, gpus: int | None, parameters: Mapping[str, str]
) -> list[str]:
    """Registers deployments, work pool, GPU limit and the watch for dead runs; again gives the same. Says what it did.

    `folder` is where flows run on the workers. `pool`, `cron` and the default `parameters` replace those of
    `prefect.yaml`; without `gpus` the server's limit stays as it is. UserError where no server answers, or it refuses.
    """
    said = [f"Prefect server: {reachable_server()}"]
    content = _content(pool, cron, parameters)
    with get_client(sync_client=True) as client:
        names = {deployment["work_pool"]["name"] for deployment in content["deployments"]}
        said += [_work_pool(client, name) for name in sorted(names)]
        _prefect_deploy(content, folder)
        for deployment in content["deployments"]:
            times = "".join(f", scheduled at {schedule['cron']!r}" for schedule in deployment.get("schedules", []))
            flow = deployment["entrypoint"].rpartition(".")[2]
            said.append(f"deployment {flow}/{deployment['name']}{times}")
        if gpus is not None:
            client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, gpus)
            said.append(f"GPU limit {GPU_LIMIT}: {gpus}")
        said.append(_watch(client))
    return said


def _content(pool: str | None, cron: str | None, parameters: Mapping[str, str]) -> dict[str, Any]:
    """`prefect.yaml`, changed. A deployment is given the parameters that its flow has."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        if pool is not None:
            deployment["work_pool"]["name"] = pool
        known = signature(load_flow_from_entrypoint(deployment["entrypoint"]).fn).parameters
        given = {name: value for name, value in parameters.items() if name in known}
        deployment["parameters"] = {**deployment.get("parameters", {}), **given}
        for schedule in deployment.get("schedules", []) if cron is not None else []:
            schedule["cron"] = cron
    return content


def _work_pool(client: SyncPrefectClient, name: str) -> str:
    """Sees to it that there is such a pool; what kind an existing one is does not matter."""
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        return f"work pool {name}: made, for processes; start a worker by: prefect worker start --pool {name}"
    return f"work pool {name}: there, of type {found.type}"


def _prefect_deploy(content: dict[str, Any], folder: Path) -> None:
    """`prefect deploy --all` in a process of its own: its command line is what Prefect promises to keep."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / FILE.name
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        environment = {**os.environ, "PWD": str(folder), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join((done.stdout + done.stderr).split())
        raise UserError(f"the Prefect server did not take the deployments: {words[-500:]}")


def _watch(client: SyncPrefectClient) -> str:
    """An automation that marks flow runs as crashed whose heartbeats have stopped (Prefect's guide to zombie flows)."""
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    silent_for = timedelta(seconds=HEARTBEATS_MISSED * int(HEARTBEAT_S))
    automation = AutomationCore(
        name=WATCH,
        description="Marks runs as crashed whose process or machine is gone. Run them again: finished work is kept.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silent_for,
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message="no sign of life: its process or machine is gone")
        ],
    )
    found = client.read_automations_by_name(WATCH)
    if found:
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)
    return f"dead runs: crashed after {silent_for.seconds} s without a heartbeat"
