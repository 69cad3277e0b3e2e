"""What decides speed and not results: device, number format, threads, batch size; and where a stage works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.params import RuntimeParams
from storage.work import Workspace

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """The section `runtime`, its choices made for this process."""

    device: torch.device
    dtype: torch.dtype
    """Of matrix products; what is judged is computed in float32 whatever this says."""
    batch_tokens: int
    """Tokens, padding included, of one forward."""
    threads: int = 0
    """CPU threads of the process; 0 leaves them as they are."""
    checkpoint_seconds: float = 300.0
    workspace: Workspace = Workspace()

    def facts(self) -> dict[str, str]:
        """Device and number format, as run records name them."""
        return {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}


def apply(params: RuntimeParams, workspace: Workspace = Workspace()) -> Runtime:
    """Set the thread count and choose device and dtype; `auto` takes bfloat16 where it is faster than float32."""
    import torch

    device = params.device if params.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    settle(torch.device(device), threads=params.threads)
    if params.dtype != "auto":
        dtype = getattr(torch, params.dtype)
    else:
        fast = torch.cuda.is_bf16_supported() if device == "cuda" else _cpu_gains_from_bfloat16()
        dtype = torch.bfloat16 if fast else torch.float32
    return Runtime(
        device=torch.device(device),
        dtype=dtype,
        batch_tokens=params.batch_tokens,
        threads=params.threads,
        checkpoint_seconds=params.checkpoint_seconds,
        workspace=workspace,
    )


def settle(device: torch.device, *, threads: int) -> None:
    """Set the thread count, where it is not 0, and what the device needs; both hold for this process."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        # cuDNN re-plans per shape of a batch, and ours differ in length.
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)


def _cpu_gains_from_bfloat16() -> bool:
    """True on CPUs that compute in bfloat16: 1.6 times faster than float32 with AVX-512, 4 to 5 with matrix units."""
    import torch

    capability = torch.cpu.get_capabilities()
    return any(capability.get(name) for name in ("amx_bf16", "avx512_bf16", "arm_bf16"))
