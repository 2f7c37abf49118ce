"""Reading networks and schedulers from folders in the diffusers layout."""

import pickle
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from generation.folders import weights_file
from pipeline.errors import UserError, one_line


def load(kind: Any, folder: Path) -> Any:
    """The network of class `kind` (diffusers or transformers) in `folder`: float32, evaluation mode, frozen.

    UserError where its files are damaged or are another network's, and where they lack tensors: the libraries would
    fill these with random numbers and say so in a log line only.
    """
    diffusers_logging.disable_progress_bar()  # they take a second and would tear our own bar
    transformers_logging.disable_progress_bar()
    file = weights_file(folder)
    options: dict[str, Any] = {} if file is None else {"use_safetensors": file.suffix == ".safetensors"}
    if file is not None and ".fp16." in file.name:
        options["variant"] = "fp16"
    try:
        network, report = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{folder} does not load as a diffusers {kind.__name__} ({one_line(error)}): fetch or train it again"
        ) from error
    if lacking := sorted(report["missing_keys"]):
        raise UserError(
            f"{folder} lacks {len(lacking)} of a {kind.__name__}'s tensors ({', '.join(lacking[:3])}"
            f"{', ...' if len(lacking) > 3 else ''}): fetch or train it again"
        )
    return network.eval().requires_grad_(False)


def load_scheduler(folder: Path, *, ddim: bool) -> Any:
    """The scheduler in `folder`, or with `ddim` DDIM on the same noise schedule, as DGInStyle's released code samples.

    Latents are never clipped, and steps are counted from 1 as Stable Diffusion was trained.
    """
    try:
        config = DDIMScheduler.load_config(folder, local_files_only=True)
    except OSError as error:
        raise UserError(f"{folder} holds no scheduler_config.json: fetch it again") from error
    if ddim:
        return DDIMScheduler.from_config(config, steps_offset=1, clip_sample=False)
    return getattr(diffusers, config["_class_name"]).from_config(config)
