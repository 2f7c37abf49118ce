"""Writes the numbers beside this file from the full set: python -m tests.golden.reduce FULL_SET.

Nothing is computed anew. Files are copied, or hold fewer of the same numbers in a narrower type that loses nothing.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
# Logits at image size are interpolated from a fourth of the rows and columns. Every fifth pixel still meets each of the
# four positions between them, and each channel of both images.
STRIDE = 5


def reduce(full: Path) -> None:
    """Copies `full`, in the layout that the README beside this file describes, with what fills the space left out."""
    for file in (file for file in full.rglob("*") if file.is_file() and file.name != "README.md"):
        copy = HERE / file.relative_to(full)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
    for name in ("daformer_reference", "hrda_reference"):
        file = HERE / f"{name}.safetensors"
        tensors = load_file(file)
        tensors["logits"] = tensors["logits"][..., ::STRIDE, ::STRIDE].contiguous()
        tensors["logits.stride"] = torch.tensor(STRIDE)
        save_file({name: narrowed(tensor) for name, tensor in tensors.items()}, file)
    file = HERE / "dginstyle" / "reference.safetensors"
    save_file({name: narrowed(tensor) for name, tensor in load_file(file).items()}, file)


def narrowed(tensor: torch.Tensor) -> torch.Tensor:
    """As uint8 where that holds each value exactly."""
    small = tensor.to(torch.uint8)
    return small if torch.equal(small.to(tensor.dtype), tensor) else tensor


if __name__ == "__main__":
    reduce(Path(sys.argv[1]))
