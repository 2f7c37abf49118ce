"""Checks docker/kubernetes/ as far as that goes without a cluster: `make check-manifests`.

Built-in kinds against the schemas that kubernetes-validate brings. The work pool's job template as Prefect's Kubernetes
worker reads it, and the Job that the worker would create from it against the schemas again. The RayCluster as Ray's
autoscaler reads it, and its pods against the schemas; KubeRay's own schema of the kind comes in no package, so names of
its fields that neither reads go unchecked.
"""

import asyncio
import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
NOT_OF_A_POD = ("parallelism", "completions")  # Prefect demands them in the pod's spec; Kubernetes drops them there


def validate(document: Mapping[str, Any]) -> None:
    """Raises for a field that Kubernetes does not know, or of another type."""
    kubernetes_validate.validate(document, "1.37", strict=True)


def job(template: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The Job that Prefect's worker creates for a flow run whose deployment sets `values`."""
    server = PrefectClient("http://127.0.0.1/api")  # is asked nothing: the template names no block and no variable
    configuration = asyncio.run(
        KubernetesWorkerJobConfiguration.from_template_and_values(dict(template), dict(values), client=server)
    )
    configuration.prepare_for_flow_run(FlowRun(name="check", flow_id=uuid.uuid4()))
    manifest: dict[str, Any] = configuration.job_manifest
    for name in NOT_OF_A_POD:
        del manifest["spec"]["template"]["spec"][name]
    return manifest


def ray_node_types(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Resources and bounds of each group, as Ray's autoscaler understands the RayCluster. Checks the groups' pods."""
    spec = cluster["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        validate({"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]})
    installed = {**cluster, "metadata": {"namespace": "default", **cluster["metadata"]}}
    types: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(installed)["available_node_types"]
    return types


def main() -> None:
    """Checks everything; the exit code is 1 with the first fault that is found."""
    checked = []
    try:
        for file in sorted(FOLDER.iterdir()):
            checked.append(file.name)
            if file.suffix == ".json":
                template = json.loads(file.read_text())
                validate(job(template, {}))
                validate(job(template, {"gpus": 0, "node_selector": {}, "env": {"HF_HOME": "/data/hub"}}))
                continue
            for document in yaml.safe_load_all(file.read_text()):
                if document["kind"] == "RayCluster":
                    ray_node_types(document)
                else:
                    validate(document)
    except Exception as error:  # each validator has its own
        sys.exit(f"docker/kubernetes/{checked[-1]}: {error}")
    print(f"docker/kubernetes: {len(checked)} files are valid ({', '.join(checked)})")


if __name__ == "__main__":
    main()
