"""The words of prompts, and which of them a text encoder sees. Imports neither torch nor diffusers: plans need it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generation.folders import Folders
from pipeline.config.generation import PLAIN, GenerationConfig
from pipeline.data.labels import CLASS_NAMES, IGNORE
from pipeline.errors import UserError, one_line
from pipeline.requests import GenerationRequest

NOTHING_NAMED = "a street"
"""In the place of the classes where a label map shows none."""
SHOWN = 80  # characters of what is cut off a prompt


def fill_prompt(template: str, label: np.ndarray, separator: str, weather: str = "") -> str:
    """`template` with the names of the classes that `label` (H, W) shows, in the order of their ids."""
    shown = np.flatnonzero(np.bincount(label.ravel()))  # four times as fast as np.unique
    names = separator.join(CLASS_NAMES[c] for c in shown if c != IGNORE)
    return template.format(classes=names or NOTHING_NAMED, weather=weather)


def template_of(config: GenerationConfig, condition: str) -> tuple[str, str]:
    """The config's key for the prompts of a condition, and the template that it holds."""
    if condition in config.conditions:
        return f"generation.conditions.{condition}", config.conditions[condition]
    return (
        ("generation.plain_prompt", config.plain_prompt) if condition == PLAIN else ("generation.prompt", config.prompt)
    )


def load_tokenizer(folder: Path) -> Any:
    """The CLIP tokenizer in `folder`. UserError where it is damaged or something else."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} does not load as a tokenizer ({one_line(error)}): fetch it again") from error


def most_tokens(folders: Folders, tokenizer: Any) -> int:
    """Tokens of a prompt that the text encoder sees, start and end included: 77 for CLIP."""
    config = json.loads((folders["text_encoder"] / "config.json").read_text(encoding="utf-8"))
    return int(min(tokenizer.model_max_length, config.get("max_position_embeddings", 77)))


def check_prompts(config: GenerationConfig, requests: Sequence[GenerationRequest], folders: Folders) -> None:
    """UserError where the tokenizer would cut a prompt: what is lost, perhaps the weather, would not be painted."""
    tokenizer = load_tokenizer(folders["tokenizer"])
    most = most_tokens(folders, tokenizer)
    first = {request.prompt: request for request in reversed(requests)}  # of every prompt the first request with it
    encoded = tokenizer(list(first), return_offsets_mapping=True, verbose=False)
    too_long = [
        (request, len(ids), offsets[most - 1][0])
        for request, ids, offsets in zip(first.values(), encoded.input_ids, encoded.offset_mapping, strict=True)
        if len(ids) > most
    ]
    if too_long:
        request, tokens, cut = min(too_long, key=lambda found: found[0].id)
        lost = request.prompt[cut:]
        shown = lost if len(lost) <= SHOWN else lost[: SHOWN - 3] + "..."
        raise UserError(
            f"{template_of(config, request.condition)[0]}: the prompt of request {request.id} has {tokens} tokens, but"
            f" the text encoder of {config.weights_name} sees {most}, so '{shown}' would be lost"
            f" ({len(too_long)} of {len(first)} prompts are too long): shorten it"
        )
