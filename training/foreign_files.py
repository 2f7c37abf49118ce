"""Tensors of checkpoints that others made. Nothing in a file is run, and what it claims is held to its size."""

import pickle
import resource
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import UserError, one_line

SPARE_BYTES = 2**31
"""What reading may take beside three times the file's size (threads' stacks, libraries)."""
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
_SCALARS = (np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.bool_)
DAMAGE = (
    SafetensorError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, struct.error,
    AssertionError, OverflowError, zipfile.BadZipFile,
)  # fmt: skip
"""What torch and safetensors were seen to raise on damaged files."""


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file by name, on the CPU: of its `state_dict` if it has one.

    Beside them a file may hold plain values and NumPy's numbers (mmcv keeps a best score); what else it may hold is
    refused, never unpickled. UserError: no such file, none that holds tensors, or tensors larger than the file.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file; wanted a .pth or .safetensors file in mmseg's naming")
    if reason := _no_checkpoint(path):
        raise UserError(f"checkpoint {path} {reason}")
    try:
        with _allocating_at_most(3 * path.stat().st_size + SPARE_BYTES):
            held: Any = load_file(path) if path.suffix == ".safetensors" else _load_pth(path)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} {_unwanted(path)}") from error
    except MemoryError as error:
        raise UserError(f"checkpoint {path} claims far more than its {path.stat().st_size:,} bytes can hold") from error
    except DAMAGE as error:
        raise UserError(
            f"checkpoint {path} is damaged, or no checkpoint of torch or safetensors: fetch it again"
        ) from error
    state = held.get("state_dict", held) if isinstance(held, Mapping) else {}
    tensors = {name: value for name, value in _items(state) if isinstance(name, str) and _is_plain(value)}
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"checkpoint {path}: {name} claims to be {list(tensor.shape)}, but holds less than that")
    return tensors


def _no_checkpoint(path: Path) -> str | None:
    """What a file is that was saved in a checkpoint's place; None if it may be one."""
    with path.open("rb") as file:
        head = file.read(300)
    kinds = (
        (not head, "is empty: fetch it again"),
        (
            head.startswith(b"version https://git-lfs"),
            "is a git-lfs pointer, not the file that it stands for: run 'git lfs pull' where it came from",
        ),
        (
            head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"),
            "is a web page, not a checkpoint (a login, or a warning before the download): fetch the file itself",
        ),
        (
            head.startswith(_PACKED) or head[257:262] == b"ustar",
            "is a packed archive: unpack it and give the .pth file in it",
        ),
    )
    said = next((what for holds, what in kinds if holds), None)
    return said or (_no_archive_of_torch(path) if head.startswith(b"PK\x03\x04") else None)


def _no_archive_of_torch(path: Path) -> str | None:
    """What is wrong with a zip archive, which a .pth file is; None if nothing is. torch reads one that does not hold
    what its own checksums say, and so other weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = archive.infolist()
            if not any(file.filename.endswith("data.pkl") for file in files):
                return "is a zip archive, but none of torch: unpack it and give the .pth file in it"
            if sum(file.file_size for file in files) > path.stat().st_size:  # torch packs nothing
                return "claims more bytes than it has: fetch it again"
            whole = archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, RuntimeError, EOFError, struct.error):
        whole = False
    return None if whole else "is damaged: fetch it again"


def _load_pth(path: Path) -> object:
    """What torch.load gives of tensors and plain values, and of NumPy's numbers by either name of their module."""
    number: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(scalar)) for scalar in _SCALARS}
    allowed: list[Any] = [
        (number, "numpy.core.multiarray.scalar"),
        (number, "numpy._core.multiarray.scalar"),
        np.dtype,
        *kinds,
    ]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")  # on the pickle's protocol
        return torch.load(path, "cpu", weights_only=True)


def _unwanted(path: Path) -> str:
    """Which other objects a pickle names, by a look at it that runs nothing."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, OSError, LookupError, pickle.UnpicklingError, EOFError):  # of an older format
        names = []
    shown = one_line(ValueError(", ".join(sorted(names)[:3])), 120)
    what = f"holds other objects than tensors ({shown})" if names else "holds other things than tensors, or is damaged"
    return f"{what}: nothing is unpickled; fetch it again, or save its state_dict as safetensors where you trust it"


def _items(state: object) -> list[tuple[object, object]]:
    return list(state.items()) if isinstance(state, Mapping) else []


def _is_plain(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor with numbers of its own: not sparse, quantized, complex or without data."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex() or value.is_nested)
    )


@contextmanager
def _allocating_at_most(count: int) -> Iterator[None]:
    """Lets this process's memory grow by `count` bytes at most: who reads a file finds out too late what it claims."""
    pages = Path("/proc/self/statm")  # Linux
    before = resource.getrlimit(resource.RLIMIT_AS)
    if not pages.is_file():
        yield
        return
    most = int(pages.read_text().split()[0]) * resource.getpagesize() + count
    bound = most if before[0] == resource.RLIM_INFINITY else min(most, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (bound, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
