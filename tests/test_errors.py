"""What libraries say when memory runs out, and when a GPU is lost; every message as it is met."""

import pytest
import torch

from diffusers_helper.errors import says_gpu_is_lost
from diffusers_helper.memory.shortage import is_out_of_memory, is_out_of_ram

OUT_OF_MEMORY = [
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA driver error: out of memory",
    "CUDA out of memory. Tried to allocate 3.19 GiB",
    "Triton Error [CUDA]: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1131',
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9",
]
LOST = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: device-side assert triggered",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unknown error",
    "CUDA error: misaligned address",
    "CUDA error: hardware stack error",
    "CUDA error: invalid program counter",
    "CUDA error: operation not supported on global/shared address space",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: no CUDA-capable device is detected",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "CUDA driver error: unspecified launch failure",
    "Triton Error [CUDA]: an illegal memory access was encountered",
]
OF_THIS_CALL_ALONE = [
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: invalid argument",
    "CUDA error: invalid configuration argument",
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`",
    "CUDA error: operation not supported",
    "cuDNN error: CUDNN_STATUS_BAD_PARAM",
    "Rowwise scaling is not currently supported on your device",
    "shapes differ: unknown error",
]


@pytest.mark.parametrize("words", OUT_OF_MEMORY)
def test_memory_that_ran_out_is_told_in_many_words(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert not says_gpu_is_lost(RuntimeError(words))


@pytest.mark.parametrize("words", LOST)
def test_a_gpu_that_is_lost_is_known(words: str) -> None:
    assert says_gpu_is_lost(RuntimeError(words))
    assert says_gpu_is_lost(torch.AcceleratorError(words))
    assert not is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize("words", OF_THIS_CALL_ALONE)
def test_what_is_over_with_its_call_is_neither(words: str) -> None:
    assert not says_gpu_is_lost(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize("words", [OUT_OF_MEMORY[0], LOST[0]])
def test_words_alone_are_no_failure_of_a_device(words: str) -> None:
    assert not is_out_of_memory(ValueError(words))
    assert not says_gpu_is_lost(ValueError(words))


def test_errors_of_their_own_class_need_no_words() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())


def test_ram_that_ran_out_is_told_from_a_gpus_memory() -> None:
    assert is_out_of_ram(MemoryError())
    assert is_out_of_ram(RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate"))
    assert not is_out_of_ram(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_ram(ValueError("DefaultCPUAllocator"))
