"""What the schemas of `make check-manifests` cannot say of the files in docker/."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from tests.docker.manifests import job, ray_node_types

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
TEMPLATE = json.loads((DOCKER / "kubernetes" / "job-template.json").read_text())
KUBERNETES = {
    (document["kind"], document["metadata"]["name"]): document
    for file in sorted((DOCKER / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}
RAY = KUBERNETES["RayCluster", "flexseg"]
SECRETS = ("DATABASE_PASSWORD", "OBJECTS_USER", "OBJECTS_PASSWORD")


def texts() -> Iterator[tuple[Path, str]]:
    """Every file of the folder, and the page about clusters."""
    files = [file for file in DOCKER.rglob("*") if file.is_file() and file.suffix not in {".pyc"}]
    return ((file, file.read_text()) for file in [*files, ROOT / "docs" / "cluster.md"] if file.name != ".env")


def values(node: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of every mapping below."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield str(key), value
        yield from values(value)


def pods() -> dict[str, dict[str, Any]]:
    """The specs of all pods."""
    groups = [RAY["spec"]["headGroupSpec"], *RAY["spec"]["workerGroupSpecs"]]
    named = {group.get("groupName", "head"): group["template"]["spec"] for group in groups}
    named["worker"] = KUBERNETES["Deployment", "flexseg-worker"]["spec"]["template"]["spec"]
    named["job"] = job(TEMPLATE, {})["spec"]["template"]["spec"]
    return named


def test_secrets_come_from_outside_alone() -> None:
    secret = re.compile(r"password|secret_access|access_key|token|root_user", re.IGNORECASE)
    written = [(key, value) for key, value in values(COMPOSE) if secret.search(key) and isinstance(value, str)]
    assert {key for key, _ in written} >= {"AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD", "MINIO_ROOT_PASSWORD"}
    assert [pair for pair in written if not re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", pair[1])] == []
    assert [
        line for line in (DOCKER / "example.env").read_text().splitlines() if re.match(r"(DATA|OBJ)\w+=.", line)
    ] == []
    assert "Secret" not in {kind for kind, _ in KUBERNETES}
    plain = [
        pair for document in (RAY, TEMPLATE, *KUBERNETES.values()) for pair in values(document) if pair[0] == "env"
    ]
    assert not [pair for pair in plain if secret.search(str(pair[1]))]


def test_git_and_docker_ignore_the_file_with_the_secrets() -> None:
    assert "/docker/.env" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert not any(line.startswith("!docker") or "env" in line for line in ignored)


def test_images_are_pinned_to_a_release() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()}
    images |= {container["image"] for pod in pods().values() for container in pod["containers"]}
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    own = {f"flexseg:{name}" for _, name in stages[1:]}
    assert own == {"flexseg:cpu", "flexseg:cuda"} == {image for image in images if image.startswith("flexseg")}
    names = {name for _, name in stages}
    foreign = (images - own) | {image for image, _ in stages if image not in names}
    assert foreign
    assert [image for image in foreign if not re.search(r":\D*\d+[.-]\d+", image)] == []


def test_the_image_holds_all_that_deployments_need() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    copied = set(" ".join(re.findall(r"^COPY (?!--)(.*) \S+$", text, flags=re.MULTILINE)).split())
    packages = {"pipeline", "generation", "training", "evaluation", "flows"}
    assert copied == packages | {"pyproject.toml", "requirements.lock", "README.md", "LICENSE", "prefect.yaml"}
    assert {f"!{name}" for name in copied} <= set((DOCKER / "Dockerfile.dockerignore").read_text().splitlines())
    assert all((ROOT / name).exists() for name in copied)


def test_nothing_runs_as_root() -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert user == [("1000", "1000")]
    assert f"--uid {user[0][0]} " in (DOCKER / "Dockerfile").read_text()
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] == 1000, name


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """(file, words) of every `flexseg ...` in the manifests, in the pages' code blocks and in the script's header."""
    for file, text in texts():
        code = "".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)) if file.suffix == ".md" else text
        if file.suffix in {".yaml", ".env"} or file.name.startswith("Dockerfile"):
            code = re.sub(r"^\s*#.*", "", code, flags=re.MULTILINE)
        for line in re.findall(r"\bflexseg(?:\.sbatch)? ([a-z][^#`\n&|]*)", code):
            if file.suffix != ".sbatch" or "run" in line:
                yield file.name, line.replace("'", "").split()


def test_commands_exist() -> None:
    runner, groups = CliRunner(), {"models", "data", "weights", "cache"}
    lines = list(command_lines())
    assert {words[0] for _, words in lines} >= {"run", "deploy"}
    for name, words in lines:
        shown = runner.invoke(app, [*words[: 2 if words[0] in groups else 1], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, (name, words)
        options = [word.split("=")[0] for word in words if word.startswith("--")]
        assert [option for option in options if option not in shown.output] == [], (name, words)


def test_one_work_pool_for_all() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    pools = {deployment["work_pool"]["name"] for deployment in deployed["deployments"]}
    assert len(pools) == 1
    named = {match for _, text in texts() for match in re.findall(r"--pool[=, ]+([\w-]+)", text)}
    named |= {match for _, text in texts() for match in re.findall(r"work-pool create ([\w-]+)", text)}
    assert named == pools


def test_ports_agree() -> None:
    services = COMPOSE["services"]
    addresses = dict(re.findall(r"http://(\w+):(\d+)", json.dumps(COMPOSE["x-flexseg"]["environment"])))
    assert set(addresses) == {"server", "objects"}
    for name, port in addresses.items():
        assert f"127.0.0.1:{port}:{port}" in services[name]["ports"]
    assert services["server"]["command"][-1] == addresses["server"]
    assert f":{addresses['server']}/api/health" in services["server"]["healthcheck"]["test"][-1]
    assert services["server"]["environment"]["PREFECT_SERVER_UI_API_URL"].endswith(f":{addresses['server']}/api")
    for group in (RAY["spec"]["headGroupSpec"], *RAY["spec"]["workerGroupSpecs"]):
        container = group["template"]["spec"]["containers"][0]
        port = container["ports"][0]
        assert container["livenessProbe"]["tcpSocket"]["port"] == port["name"]
        assert str(port["containerPort"]) == group["rayStartParams"].get("node-manager-port", "6379")


def test_all_pods_share_the_volume_and_the_secret() -> None:
    claims = {value for pod in pods().values() for key, value in values(pod) if key == "claimName"}
    secrets = {value["name"] for pod in pods().values() for key, value in values(pod) if key == "secretRef"}
    assert claims == {name for kind, name in KUBERNETES if kind == "PersistentVolumeClaim"}
    assert secrets == {"flexseg"}
    assert {pod["containers"][0].get("workingDir", "none") for name, pod in pods().items() if name != "worker"} == {
        "/data"
    }


def test_ray_version_is_the_locks() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\nray=={RAY['spec']['rayVersion']} " in lock.replace("ray[train]", "ray")


def test_ray_sees_the_gpus_and_gives_the_head_no_work() -> None:
    types = ray_node_types(RAY)
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (0, 8)


def test_only_the_rays_own_pods_reach_its_ports_and_they_need_a_token() -> None:
    """Issue 11: whoever reached the port ran code there. KubeRay names the label and makes the token."""
    assert RAY["spec"]["authOptions"] == {"mode": "token"}
    assert tuple(map(int, RAY["spec"]["rayVersion"].split("."))) >= (2, 52, 0), "older ones know no token"
    policy = KUBERNETES["NetworkPolicy", "flexseg-ray"]["spec"]
    own = {"podSelector": {"matchLabels": {"ray.io/cluster": RAY["metadata"]["name"]}}}
    assert {"podSelector": policy["podSelector"]} == own
    assert policy["policyTypes"] == ["Ingress"] and policy["ingress"] == [{"from": [own]}]


def test_servers_listen_on_loopback_unless_told() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    lines = [(file.name, line.strip()) for file, text in texts() for line in text.splitlines()]
    open_to_all = {(name, line) for name, line in lines if "0.0.0.0" in line}
    assert open_to_all == {
        ("worker.yaml", "value: 0.0.0.0"),  # its health, which the kubelet asks for
        (
            "compose.yaml",
            'command: [prefect, server, start, --host, 0.0.0.0, --port, "4200"]',
        ),  # in the compose file's own network
    }


def test_a_deployment_chooses_its_gpus() -> None:
    pod = job(TEMPLATE, {"gpus": 4, "node_selector": {"gpu": "h200"}})["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert pod["nodeSelector"] == {"gpu": "h200"}
    assert pod["containers"][0]["args"][0] == "prefect"
    sigterm = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert sigterm["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


def compose_command() -> list[str]:
    """Docker's own reader of compose files."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither docker compose nor docker-compose is here (Debian: docker-compose)")


def test_compose_asks_for_every_secret() -> None:
    command = [*compose_command(), "--file", str(DOCKER / "compose.yaml"), "config"]
    clean = {name: value for name, value in os.environ.items() if name not in SECRETS}
    given = dict.fromkeys(SECRETS, "x")
    done = subprocess.run(command, env={**clean, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "docker/example.env" in refused.stderr
