"""What accelerators can do at the most, by the tables of those who make them."""

from typing import NamedTuple

import jax

_GIB = 2**30


class Chip(NamedTuple):
    """What one device has, as JAX counts devices. Peaks, which no program reaches.

    Attributes:
      kind: what JAX calls it, `device_kind`; of a TPU it may be the name in CHIPS too, as in "TPU v5e".
      bfloat16, float32: FLOP/s of products of matrices in networks that compute in these types. JAX multiplies float32 in one
        pass of bfloat16 on a TPU and in TF32 on a GPU, unless it is told otherwise (`jax.lax.Precision.DEFAULT`).
      memory: bytes.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s to other chips, one way, over all of its links together.
      sides: of a TPU, along how many axes its chips are connected; 0 of a GPU.
      most: the largest slice of them, in chips.
    """

    kind: str
    bfloat16: float
    float32: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    sides: int = 0
    most: int = 0


# Each line from one page. Links are told there in both directions together, and halved here; FLOP/s of GPUs with sparsity, and
# halved too.
CHIPS: dict[str, Chip] = {
    # https://cloud.google.com/tpu/docs/v4; the links of Jouppi et al. 2023, table 4: six of 50 GB/s
    "v4": Chip("TPU v4", 275e12, 275e12, 32 * _GIB, 1200e9, 300e9, 3, 4096),
    # https://cloud.google.com/tpu/docs/v5e
    "v5e": Chip("TPU v5 lite", 197e12, 197e12, 16e9, 819e9, 200e9, 2, 256),
    # https://cloud.google.com/tpu/docs/v5p
    "v5p": Chip("TPU v5", 459e12, 459e12, 95e9, 2765e9, 600e9, 3, 6144),
    # https://cloud.google.com/tpu/docs/v6e
    "v6e": Chip("TPU v6 lite", 918e12, 918e12, 32e9, 1638e9, 400e9, 2, 256),
    # https://www.nvidia.com/en-us/data-center/a100/
    "A100": Chip("NVIDIA A100-SXM4-80GB", 312e12, 156e12, 80e9, 2039e9, 300e9),
    "A100-40GB": Chip("NVIDIA A100-SXM4-40GB", 312e12, 156e12, 40e9, 1555e9, 300e9),
    # https://www.nvidia.com/en-us/data-center/h100/
    "H100": Chip("NVIDIA H100 80GB HBM3", 989e12, 494e12, 80e9, 3350e9, 450e9),
    # https://www.nvidia.com/en-us/data-center/h200/
    "H200": Chip("NVIDIA H200", 989e12, 494e12, 141e9, 4800e9, 450e9),
    # https://www.nvidia.com/en-us/data-center/l4/; it has no links but PCIe 4.0 of sixteen lanes
    "L4": Chip("NVIDIA L4", 121e12, 60e12, 24e9, 300e9, 32e9),
}


def peak(chip: Chip, dtype: str) -> float:
    """FLOP/s of a network that computes in `dtype`, "float32" or "bfloat16"."""
    return {"float32": chip.float32, "bfloat16": chip.bfloat16}[dtype]


def chip_of(device: jax.Device) -> Chip | None:
    """What the table says of a device; None where it does not know it, as of a CPU."""
    kinds = {kind: chip for name, chip in CHIPS.items() for kind in (chip.kind, f"TPU {name}")}
    return kinds.get(device.device_kind)
