"""The Ray cluster that stages run on: connecting to it, what it has, and whether its nodes see what this one sees."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die  # no public call finds a cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config.machine import Machine
from pipeline.errors import UserError, one_line
from pipeline.files import file_sha256
from pipeline.store.manifest import canonical_digest

PACKAGES = ("evaluation", "flows", "generation", "pipeline", "training")
LIBRARIES = ("diffusers", "numpy", "torch", "transformers")
"""Other versions of these give other bytes."""
HOW_TO_START = "start one with 'ray start --head', and join each machine with 'ray start --address=HEAD:6379'"
ANSWER_S = 10.0

_lock = threading.Lock()
_users: list[object] = []


@contextmanager
def connected() -> Iterator[None]:
    """Makes this process a driver of the cluster. UserError if there is none.

    When the last of its users leaves, the cluster ends every process that was started for it: a model that stayed in
    an idle process would keep its GPU's memory from the next stage.
    """
    user = object()
    with _lock:
        if not _users:
            _connect()
        _users.append(user)
    try:
        yield
    finally:
        with _lock:
            _users.remove(user)
            if not _users:
                ray.shutdown()


def _connect() -> None:
    address = _address()
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray._private.worker._worker_logs_enabled = False  # raylets' words about dead workers would go to stdout
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        if "AuthToken" in f"{error} {error.__cause__}":
            raise UserError(f"the Ray cluster at {address} wants its token: set RAY_AUTH_TOKEN_PATH to it") from error
        raise UserError(
            f"this machine is no node of the Ray cluster at {address} ({one_line(error)}): {HOW_TO_START}"
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray has put its own in place


def _address() -> str:
    """Host and port of the cluster, which answers there. UserError if there is none: Ray would wait for minutes."""
    named = os.environ.get("RAY_ADDRESS", "auto")
    if named == "local" or "://" in named:
        raise UserError(f"RAY_ADDRESS is {named!r}, but its form must be HEAD:6379: {HOW_TO_START}")
    try:
        address = canonicalize_bootstrap_address_or_die("auto")
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError) as error:
        where = "on this machine" if named == "auto" else f"at {named} (RAY_ADDRESS)"
        raise UserError(f"machine.executor is 'ray', but no Ray cluster runs {where}: {HOW_TO_START}") from error
    return address


def resource(machine: Machine, wanted: int = 1) -> str:
    """What one process of ours takes: "GPU" or "CPU". UserError if the cluster has fewer than `wanted` of them."""
    gpus = total("GPU")
    if machine.device == "cuda" and not gpus:
        raise UserError("machine.device is 'cuda', but no node of the Ray cluster has a GPU: set it to 'auto' or 'cpu'")
    name = "GPU" if gpus and machine.device != "cpu" else "CPU"
    if (count := total(name)) < wanted:
        raise UserError(f"the Ray cluster has {count} {name}s, but {wanted} are needed: start more nodes")
    return name


def total(name: str) -> int:
    """How many "GPU"s or "CPU"s all nodes that are alive have, in use or not."""
    return int(ray.cluster_resources().get(name, 0))


def options(name: str) -> dict[str, Any]:
    """How a process that takes one `name` is asked for: spread over the nodes."""
    return {"num_cpus": 1, "num_gpus": 1 if name == "GPU" else 0, "scheduling_strategy": "SPREAD"}


def device(name: str) -> str:
    """The device of a process that was given one `name`: Ray shows it no other GPU."""
    return "cuda:0" if name == "GPU" else "cpu"


def alive_nodes(name: str = "") -> dict[str, str]:
    """Id and address of the nodes that are alive and, if it is given, have the resource `name`."""
    nodes = [node for node in ray.nodes() if node["Alive"] and (not name or node["Resources"].get(name))]
    return {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}


def check_nodes(paths: Sequence[Path], name: str) -> None:
    """UserError if a node with the resource `name` cannot read one of `paths`, or has other code or libraries than
    this one. A node that dies meanwhile is no mistake."""
    check = ray.remote(complaint)
    told = [os.fspath(path.absolute()) for path in paths], versions()
    answers = {
        check.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            *told
        ): at
        for node, at in alive_nodes(name).items()
    }
    for answer, address in answers.items():
        try:
            problem = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ImportError):
                raise
            why = one_line(error.cause)
            problem = f"cannot import flexseg ({why}): install it there, in the Python that runs 'ray start'"
        except ray.exceptions.RayError:
            continue
        if problem:
            raise UserError(f"Ray node {address} {problem}")


def complaint(paths: Sequence[str], driver: dict[str, str]) -> str | None:
    """Runs on a node: what is missing there."""
    for path in paths:
        if not os.access(path, os.R_OK):
            return f"cannot read {path}: put it on a file system that all nodes share, at the same path"
    here = versions()
    for name, wanted in driver.items():
        if here[name] != wanted:
            return f"has {name} {here[name]}, but this machine has {wanted}: install the same on both"
    return None


@cache
def versions() -> dict[str, str]:
    """Code and libraries that artifacts depend on."""
    root = Path(__file__).parents[2]
    files = sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))
    code = canonical_digest([(str(file.relative_to(root)), file_sha256(file)) for file in files])
    python = "{}.{}.{}".format(*sys.version_info)
    return {"Python": python, **{library: version(library) for library in LIBRARIES}, "flexseg code": code[:12]}


def enter(folder: str) -> None:
    """Makes relative paths mean on a node what they mean to the driver, whose working directory is `folder`."""
    with suppress(OSError):  # absolute paths need no help
        os.chdir(folder)
