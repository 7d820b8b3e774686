"""Whether an error says that memory ran out, and which: libraries tell it in many words."""

from __future__ import annotations

import torch

OUT_OF_RAM = "DefaultCPUAllocator"
OUT_OF_MEMORY = (
    OUT_OF_RAM,
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",  # with expandable segments
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no room for its handle
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # as cuDNN 9 says it, of the host and of the device
    "unable to find an engine to execute this computation",  # each engine's workspace was refused, which PyTorch hides
    "Unable to find a valid cuDNN algorithm",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",  # PyTorch asks how much is free, in a container that does not tell
)
"""What is in the messages of errors that are no torch.OutOfMemoryError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, of a GPU or RAM."""
    is_said = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return is_said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def is_out_of_ram(error: BaseException) -> bool:
    """Whether it was RAM. A library that allocates in both does not always tell; then it is taken for the GPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_RAM in str(error))
