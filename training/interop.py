"""Reads segmenters that others published: DAFormer's and HRDA's checkpoints in mmsegmentation's naming."""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.config.training import HrdaConfig
from pipeline.errors import UserError
from training.foreign_files import read_tensors
from training.networks import Segmenter

Weights = dict[str, torch.Tensor]
_STYLE_BUFFERS = ("proto_mean", "proto_std")
"""SHADE's basis styles, which training alone uses."""

_ENCODER_NAMES = (
    (r"^backbone\.(patch_embed|block|norm)(\d+)", lambda found: f"encoder.stages.{int(found[2]) - 1}.{found[1]}"),
    (r"\.patch_embed\.norm\.", ".patch_embeddings.layer_norm."),
    (r"\.patch_embed\.", ".patch_embeddings."),
    (r"\.attn\.norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.norm\.", ".layer_norm."),
    (r"\.block\.", ".blocks."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.q\.", ".attention.q_proj."),
    (r"\.attn\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
)
_HEAD_NAMES = (
    (r"^decode_head\.scale_attention\.fuse_layer", "attention.fusion"),
    (r"^decode_head\.scale_attention", "attention"),
    (r"^decode_head\.(head\.)?conv_seg", "classifier"),
    (r"^decode_head\.(head\.)?fuse_layer", "decoder"),
    (r"^decode_head\.(head\.)?", "decoder."),
    (r"\.conv_seg\.", ".classifier."),
    (r"\.embed_layers\.(\d+)\.proj\.", r".embeddings.\1."),
    (r"\.aspp_modules\.", ".branches."),
    (r"\.depthwise_conv\.", ".0."),
    (r"\.pointwise_conv\.", ".1."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
)


def load_mmseg(
    path: Path | str,
    *,
    teacher: bool = False,
    heads: tuple[int, int, int, int] = (1, 2, 5, 8),
    layer_norm_eps: float = 1e-6,
    detail_crop: tuple[int, int] = (512, 512),
) -> Segmenter:
    """A DAFormer or HRDA segmenter with a MiT encoder, in eval mode, from a .pth or .safetensors file.

    What the file's shapes tell is read from them: sizes, depths, reductions, channels, classes, one scale or two. The
    options are what they do not tell, by default as published. Checkpoints of domain adaptation hold a student and its
    moving average: `teacher` takes the average. SHADE's style buffers are left out, and named on the terminal.
    UserError: no such file, no such network, or other weights than wanted.
    """
    weights = _without_styles(_chosen(read_tensors(Path(path)), teacher=teacher, path=path), path)
    wanted = [f"backbone.patch_embed{stage}.proj.weight" for stage in (1, 2, 3, 4)]
    head = "decode_head.head." if any(name.startswith("decode_head.head.") for name in weights) else "decode_head."
    wanted += [f"{head}conv_seg.weight", f"{head}embed_layers.0.proj.weight", "backbone.block1.0.mlp.fc1.weight"]
    _require(path, missing=[name for name in wanted if name not in weights])
    attention = weights.get("decode_head.scale_attention.embed_layers.0.proj.weight")
    hrda = None
    if attention is not None:
        hrda = HrdaConfig(detail_crop=detail_crop, attention_channels=len(attention)).model_dump(mode="json")
    with torch.device("meta"):  # shapes alone: a small file may ask for a network that no memory holds
        segmenter = Segmenter(
            {**_encoder_sizes(weights, path), "num_attention_heads": list(heads), "layer_norm_eps": layer_norm_eps},
            channels=len(weights[f"{head}embed_layers.0.proj.weight"]),
            classes=len(weights[f"{head}conv_seg.weight"]),
            hrda=hrda,
        )
    renamed = _renamed(weights)
    expected = segmenter.state_dict()
    _require(path, missing=expected.keys() - renamed.keys(), unknown=renamed.keys() - expected.keys())
    if other := [name for name, weight in renamed.items() if weight.shape != expected[name].shape]:
        raise UserError(
            f"checkpoint {path}: {other[0]} is {list(renamed[other[0]].shape)}, wanted"
            f" {list(expected[other[0]].shape)}; {len(other)} weights do not fit a DAFormer or HRDA network"
        )
    _check_numbers(path, renamed)
    own = {name: weight.to(expected[name].dtype, copy=True).contiguous() for name, weight in renamed.items()}
    segmenter.load_state_dict(own, assign=True)
    return segmenter.eval()


def _chosen(weights: Mapping[str, torch.Tensor], *, teacher: bool, path: Path | str) -> Weights:
    """The network's own weights: student or teacher of domain adaptation, or all there are, without the prefixes of
    DataParallel, which wraps the whole model or what is in it."""
    plain = {name.removeprefix("module."): weight for name, weight in weights.items()}
    if len(plain) < len(weights):
        raise UserError(f"checkpoint {path} holds weights twice, with and without 'module.': keep one of the two")
    weights = plain
    prefix = "ema_model." if teacher else "model."
    chosen = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    if teacher and not chosen:
        raise UserError(f"checkpoint {path} holds no teacher (no names with 'ema_model.'): load it without")
    return {name.removeprefix("module."): weight for name, weight in (chosen or weights).items()}


def _check_numbers(path: Path | str, weights: Weights) -> None:
    """UserError where a weight is no finite number: of a training that diverged, or cut to whole numbers."""
    wrong = [
        name
        for name, weight in weights.items()
        if not name.endswith("num_batches_tracked") and not (weight.is_floating_point() and weight.isfinite().all())
    ]
    if wrong:
        raise UserError(
            f"checkpoint {path}: {wrong[0]} holds numbers that are not finite, or no floating-point numbers"
        )


def _without_styles(weights: Weights, path: Path | str) -> Weights:
    styles = [name for name in weights if name.rpartition(".")[2] in _STYLE_BUFFERS]
    if styles:
        print(f"flexseg: {path} was trained with SHADE: its {', '.join(sorted(styles))} are left out", file=sys.stderr)
    return {name: weight for name, weight in weights.items() if name not in styles}


def _encoder_sizes(weights: Weights, path: Path | str) -> dict[str, Any]:
    """transformers' config of the MiT, as far as the shapes tell it."""
    hidden = [len(weights[f"backbone.patch_embed{stage}.proj.weight"]) for stage in (1, 2, 3, 4)]
    blocks = [re.match(r"backbone\.block(\d)\.(\d+)\.", name) for name in weights]
    depths = [1 + max((int(b[2]) for b in blocks if b and b[1] == str(stage)), default=0) for stage in (1, 2, 3, 4)]
    if sum(depths) > len(weights):
        raise UserError(f"checkpoint {path} names a block number {max(depths) - 1}, but has {len(weights)} weights")
    reductions = []
    for stage in (1, 2, 3, 4):
        reduction = weights.get(f"backbone.block{stage}.0.attn.sr.weight")  # absent where nothing is reduced
        reductions.append(1 if reduction is None else reduction.shape[-1])
    ratio = len(weights["backbone.block1.0.mlp.fc1.weight"]) // hidden[0]
    return {
        "model_type": "segformer",
        "hidden_sizes": hidden,
        "depths": depths,
        "sr_ratios": reductions,
        "mlp_ratios": [ratio] * 4,
    }


def _renamed(weights: Weights) -> Weights:
    """mmseg's names -> ours. Joined keys and values are split, linear embeddings become 1 x 1 convolutions."""
    renamed: Weights = {}
    for name, weight in weights.items():
        ours = name
        for pattern, replacement in _ENCODER_NAMES if name.startswith("backbone.") else _HEAD_NAMES:
            ours = re.sub(pattern, replacement, ours)
        if ".attn.kv." in ours:
            for part, half in zip(("k_proj", "v_proj"), weight.chunk(2), strict=True):
                renamed[ours.replace(".attn.kv.", f".attention.{part}.")] = half
        elif ".embeddings." in ours and weight.dim() == 2:
            renamed[ours] = weight[:, :, None, None]
        else:
            renamed[ours] = weight
    return renamed


def _require(path: Path | str, *, missing: Iterable[str] = (), unknown: Iterable[str] = ()) -> None:
    for what, names in (("lacks", sorted(missing)), ("has unknown", sorted(unknown))):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(
                f"checkpoint {path} {what} {len(names)} weights ({shown}): wanted DAFormer or HRDA with a MiT encoder"
                " in mmseg's naming"
            )
