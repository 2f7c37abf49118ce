"""Which segmenter a name means, its bare network, and how it predicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.evaluation import EvaluationConfig
from pipeline.errors import UserError
from pipeline.store.artifacts import ArtifactStore
from pipeline.store.manifest import MANIFEST, canonical_digest, file_table, read_manifest

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

    from evaluation.inference import Network, Predict


def find_model(store: ArtifactStore, name: str, option: str = "--model") -> tuple[str, Path]:
    """(key or fingerprint, folder) of a segmenter that is named by its folder, by its key in the store, by a run and a
    method (`runs/toy:flex-seg`, its first seed), or by the name of a transformers model on the Hugging Face Hub
    (`owner/model`). option: how the user gave the name, for messages."""
    folder = Path(name)
    if ":" in name and not folder.exists():
        return _model_of_run(name, option)
    if folder.is_file():
        raise UserError(f"{option} {name} is a file: bring it into our layout by flexseg convert {name} --output DIR")
    if folder.is_dir():
        model = next((place for place in (folder / "segmenter", folder) if (place / "config.json").is_file()), None)
        if model is None:
            raise UserError(
                f"{option} {name}: neither it nor its folder 'segmenter' holds a config.json; train a segmenter first"
            )
        return canonical_digest(file_table(model)), model
    if "/" in name:
        from evaluation.transformers_models import locate

        model = locate(name)
        return canonical_digest(file_table(model)), model
    artifact = store.open(name)
    if artifact.kind != "segmenter":
        raise UserError(
            f"{option} {name} is a {artifact.kind!r} artifact, wanted a 'segmenter'; see the table of flexseg plan"
        )
    return artifact.key, artifact.folder / "segmenter"


def keys_by_method(inputs: Mapping[str, str], kind: str) -> dict[str, list[str]]:
    """The keys of a report's inputs of one kind (segmenter, evaluation): for each method those of its seeds. A report's
    inputs are named METHOD SEED KIND."""
    keys: dict[str, list[str]] = {}
    for name, key in inputs.items():
        row, _, of = name.rpartition(" ")
        if of == kind:
            keys.setdefault(row.rpartition(" ")[0], []).append(key)
    return keys


def _model_of_run(name: str, option: str) -> tuple[str, Path]:
    """RUN:METHOD, where RUN is the folder of a finished report: the method's first seed."""
    run, _, method = name.rpartition(":")
    if not (Path(run) / MANIFEST).is_file():
        raise UserError(f"{option} {name}: {run} is no folder of a finished run; flexseg run prints where it lies")
    trained = keys_by_method(read_manifest(Path(run)).inputs, "segmenter")
    if method not in trained:
        raise UserError(f"{option} {name}: that run has no method {method!r}; it has {', '.join(trained) or 'none'}")
    artifact = ArtifactStore(Path(run).resolve().parents[1]).open(trained[method][0])
    return artifact.key, artifact.folder / "segmenter"


def load_network(folder: Path, device: "torch.device") -> "Network":
    """The network of a folder: one that flexseg trained, or a transformers model."""
    from evaluation import transformers_models

    if transformers_models.is_transformers(folder):
        return transformers_models.transformers_network(folder, device)
    from training import predict

    return predict.load_network(folder, str(device))


def load_predict(
    folder: Path, config: EvaluationConfig, device: str, batch_size: int, *, autotune: bool = False
) -> "Predict":
    """`predict` of the model of a folder, for evaluation: it sees at most `batch_size` images or windows at once."""
    import torch

    from evaluation.inference import make_predict
    from pipeline.work.devices import set_up_gpu

    place = torch.device(device)
    # Whole images may be of many sizes, each of which would be timed anew.
    set_up_gpu(place, config.precision, autotune=autotune and config.window is not None)
    return make_predict(load_network(folder, place), config, place, batch_size)
