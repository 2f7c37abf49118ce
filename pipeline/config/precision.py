"""In which number format networks compute."""

from typing import Literal

Precision = Literal["fp32", "tf32", "bf16"]
"""float32; float32 whose products a GPU rounds to TF32's 10 bits of fraction, which changes nothing without a GPU; or
bfloat16 by autocast, with TF32 for what stays in float32."""
