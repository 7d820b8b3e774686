"""Moves between RAM and GPU. A stand-in for the GPU counts what is copied to it and refuses what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusers_helper import memory
from diffusers_helper.errors import OutOfMemory, UnusableInput
from diffusers_helper.memory import moves, tensors, vram
from diffusers_helper.memory.loan import Loan
from diffusers_helper.memory.units import GIB

GPU = torch.device("cuda")


class FakeGPU:
    """A device of ``capacity`` bytes. What "is on it" are copies in RAM, known by their address."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.copies: list[Tensor] = []
        self.copied_back = self.emptied = 0
        self.refuse: list[int] = []

    def moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        if device.type == "cuda" and not self.has(tensor):
            return self._take(tensor)
        if device.type == "cpu" and self.has(tensor):
            self.copied_back += tensor.nbytes
            self.copies = [copy for copy in self.copies if copy.data_ptr() != tensor.data_ptr()]
            return tensor.clone()
        return tensor

    def _take(self, tensor: Tensor) -> Tensor:
        if self.refuse and self.refuse.pop(0):
            raise torch.OutOfMemoryError("refused")
        if self.held + tensor.nbytes > self.capacity:
            raise torch.OutOfMemoryError("full")
        self.copies.append(tensor.clone())
        return self.copies[-1].view_as(tensor)

    def has(self, tensor: Tensor) -> bool:
        return any(copy.data_ptr() == tensor.data_ptr() for copy in self.copies)

    @property
    def held(self) -> int:
        return sum(copy.nbytes for copy in self.copies)

    def free_gb(self, device: object = None) -> float:
        return (self.capacity - self.held) / GIB

    def empty(self) -> None:
        self.emptied += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    device = FakeGPU(10**9)
    monkeypatch.setattr(tensors, "moved", device.moved)
    monkeypatch.setattr(vram, "empty_cache", device.empty)
    monkeypatch.setattr(moves, "get_cuda_free_memory_gb", device.free_gb)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return device


def stack(layers: int = 30) -> nn.Sequential:
    """Layers of LAYER bytes each."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(32, 32) for _ in range(layers)])


LAYER = 32 * 33 * 4


def on_gpu(model: nn.Module, device: FakeGPU) -> int:
    return sum(device.has(parameter) for parameter in model.parameters()) // 2


def test_it_can_be_imported_and_asked_without_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    assert memory.get_cuda_free_memory_gb() == 0.0
    assert memory.force_free_vram(0) == 0.0
    assert (memory.cpu.type, memory.gpu.type) == ("cpu", "cuda")


@pytest.mark.parametrize(
    "use",
    [
        lambda model: memory.move_model_to_device_with_memory_preservation(model, "cuda"),
        lambda model: memory.load_model_chunked(model, memory.gpu),
        lambda model: memory.load_model_as_complete(model, "cuda:0"),
        lambda model: memory.DynamicSwapInstaller.install_model(model, device=memory.gpu),
    ],
)
def test_cuda_asked_for_without_cuda_is_said(use: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnusableInput, match=r"cuda.* was asked for, but PyTorch sees no CUDA device"):
        use(stack(1))  # type: ignore[operator]


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf")])
def test_impossible_amounts_are_refused(amount: float) -> None:
    with pytest.raises(UnusableInput, match="must be 0 or more"):
        memory.force_free_vram(amount)
    with pytest.raises(UnusableInput):
        memory.load_model_chunked(stack(1), "cpu", amount)
    with pytest.raises(UnusableInput):
        memory.offload_model_from_device_for_memory_preservation(stack(1), "cpu", amount)


def test_a_warning_when_the_target_is_not_reached(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        free = memory.force_free_vram(10_000)
    assert free < 10_000
    assert "10000.0 were asked for" in caplog.text


def test_moving_leaves_what_is_preserved(fake: FakeGPU) -> None:
    fake.capacity = 20 * LAYER
    model = stack(30)
    memory.move_model_to_device_with_memory_preservation(model, GPU, preserved_memory_gb=5 * LAYER / GIB)
    assert on_gpu(model, fake) == 15


def test_aggressive_moving_goes_on_to_four_fifths(fake: FakeGPU) -> None:
    fake.capacity = 20 * LAYER
    model = stack(30)
    memory.move_model_to_device_with_memory_preservation(model, GPU, 5 * LAYER / GIB, aggressive=True)
    assert on_gpu(model, fake) == 16
    assert fake.emptied == 2, "after 10 modules, and at the end"


def test_offloading_stops_at_the_target_and_aggressively_goes_past_it(fake: FakeGPU) -> None:
    fake.capacity = 30 * LAYER
    for aggressive, left in ((False, 25), (True, 0)):
        model = stack(30)
        memory.move_model_to_device_with_memory_preservation(model, GPU)
        emptied = fake.emptied
        memory.offload_model_from_device_for_memory_preservation(model, GPU, 5 * LAYER / GIB, aggressive)
        assert on_gpu(model, fake) == left
        assert fake.emptied - emptied == (4 if aggressive else 1)
        fake.copies.clear()


@pytest.mark.parametrize("chunk_mb", [0.01, 256, 0])
def test_a_chunked_load_is_the_same_model(chunk_mb: float) -> None:
    model, inputs = stack(5), torch.randn(2, 32)
    before = model(inputs)
    memory.load_model_chunked(model, "cpu", chunk_mb)
    assert torch.equal(model(inputs), before)


def test_a_chunked_load_moves_everything_in_small_pieces(fake: FakeGPU) -> None:
    model = stack(30)
    pieces = list(moves._pieces(model, 3 * LAYER))
    assert len(pieces) == 10
    memory.load_model_chunked(model, GPU, 3 * LAYER / 2**20)
    assert on_gpu(model, fake) == 30


def test_a_piece_that_does_not_fit_is_tried_again_after_freeing(fake: FakeGPU) -> None:
    model = stack(4)
    fake.refuse = [0, 0, 1]
    memory.load_model_chunked(model, GPU, LAYER / 2**20)
    assert on_gpu(model, fake) == 4
    assert fake.emptied == 1


def test_a_model_that_never_fits_is_back_where_it_was(fake: FakeGPU) -> None:
    fake.capacity = 2 * LAYER
    model, inputs = stack(4), torch.randn(2, 32)
    before = model(inputs)
    with pytest.raises(OutOfMemory, match="does not fit into the memory of cuda"):
        memory.load_model_chunked(model, GPU, LAYER / 2**20)
    assert fake.held == 0
    assert torch.equal(model(inputs), before)


def test_a_loan_is_given_back_without_copying(fake: FakeGPU) -> None:
    model, inputs = stack(4), torch.randn(2, 32)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    before = model(inputs)
    loan = Loan(model)
    loan.go(GPU)
    loan.go(GPU)
    assert (on_gpu(model, fake), loan.away) == (4, True)
    assert torch.equal(model(inputs), before)
    loan.leave()
    assert (fake.copied_back, loan.away) == (0, False)
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses


def test_a_loan_that_does_not_fit_stays_at_home(fake: FakeGPU) -> None:
    fake.capacity = 2 * LAYER
    model = stack(4)
    with pytest.raises(torch.OutOfMemoryError):
        Loan(model).go(GPU)
    assert on_gpu(model, fake) == 0


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), KeyboardInterrupt()])
def test_a_loan_that_is_broken_off_is_undone(error: BaseException, fake: FakeGPU) -> None:
    model, inputs, taken = stack(4), torch.randn(2, 32), fake._take
    before = model(inputs)

    def break_off(tensor: Tensor) -> Tensor:
        if len(fake.copies) == 3:
            raise error
        return taken(tensor)

    fake._take = break_off  # type: ignore[method-assign]
    loan = Loan(model)
    with pytest.raises(type(error)):
        loan.go(GPU)
    assert (on_gpu(model, fake), loan.away, loan.bytes_away) == (0, False, 0)
    assert torch.equal(model(inputs), before)


class Packed(nn.Module):
    """As bitsandbytes keeps its weights: 4 bits with a state on the parameter, 8 bits with one on the module."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(64, dtype=torch.uint8), requires_grad=False)
        second = SimpleNamespace(absmax=torch.ones(2), code=torch.ones(3))
        scales = SimpleNamespace(absmax=torch.ones(4), code=torch.ones(5), offset=torch.tensor(0.5), state2=second)
        if bits == 4:
            self.weight.quant_state = scales  # type: ignore[attr-defined]
        else:
            self.state = SimpleNamespace(CB=self.weight.data, SCB=torch.ones(6))

    def hidden(self) -> list[Tensor]:
        holders = vars(self).get("state"), getattr(self.weight, "quant_state", None)
        found = [each for holder in holders if holder for each in vars(holder).values()]
        second = [each for holder in found if isinstance(holder, SimpleNamespace) for each in vars(holder).values()]
        return [each for each in (*found, *second) if isinstance(each, Tensor)]


@pytest.mark.parametrize(("bits", "hidden"), [(4, 5), (8, 2)])
def test_packed_weights_move_with_what_lies_beside_them(bits: int, hidden: int, fake: FakeGPU) -> None:
    """And what are two names of the same bytes stay so."""
    model = Packed(bits)
    tensors = [model.weight, *model.hidden()]
    assert len(tensors) == 1 + hidden
    addresses = [tensor.data_ptr() for tensor in tensors]
    size = sum(dict(zip(addresses, (tensor.nbytes for tensor in tensors), strict=True)).values())
    loan = Loan(model)
    loan.go(GPU)
    assert all(fake.has(tensor) for tensor in tensors)
    assert fake.held == size
    loan.leave()
    assert [tensor.data_ptr() for tensor in tensors] == addresses
    fake.copies.clear()
    memory.load_model_chunked(model, GPU)
    assert all(fake.has(tensor) for tensor in tensors)
    memory.offload_model_from_device_for_memory_preservation(model, GPU, aggressive=True)
    assert not any(fake.has(tensor) for tensor in tensors)


@pytest.fixture
def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("kind", ["Linear4bit", "Linear8bitLt"])
def test_all_that_bitsandbytes_makes_moves(bitsandbytes: Any, kind: str, fake: FakeGPU) -> None:
    """Before its first use, which moves the states of 8 bits from the weight to the module, and after it."""
    torch.manual_seed(0)
    options = {} if kind == "Linear4bit" else {"has_fp16_weights": False}
    model = getattr(bitsandbytes.nn, kind)(64, 128, **options).requires_grad_(False).eval().to("cpu")
    inputs, outputs = torch.randn(3, 64), []
    for _ in range(2):
        loan = Loan(model)
        loan.go(GPU)
        assert all(fake.has(tensor) for tensor in tensors_within(model))
        loan.leave()
        assert not any(fake.has(tensor) for tensor in tensors_within(model))
        outputs.append(model(inputs))
    assert torch.equal(*outputs)


def tensors_within(model: Any) -> Iterator[Tensor]:
    """Of everything that a module holds, however deep."""
    waiting, seen = [model], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            yield each
        if isinstance(each, dict | list | tuple):
            waiting += each.values() if isinstance(each, dict) else each
        elif hasattr(each, "__dict__") and not isinstance(each, type):
            waiting += vars(each).values()


class Peculiar(nn.Module):
    """A class with its own way of finding attributes, a tied weight, a buffer and a weight that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((8,), 0.5))
        self.register_parameter("nothing", None)

    def __getattr__(self, name: str) -> object:
        return 3.0 if name == "three" else super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        assert self.nothing is None
        return self.second(self.first(x)) * self.scale * self.three  # type: ignore[operator]


def test_weights_on_demand_for_any_class() -> None:
    model, inputs = Peculiar(), torch.randn(2, 8)
    before, classes = model(inputs), [type(module) for module in model.modules()]
    memory.DynamicSwapInstaller.install_model(model, dtype=torch.float64)
    assert model(inputs.double()).dtype == torch.float64
    memory.DynamicSwapInstaller.install_model(model, device="cpu")
    assert isinstance(model, Peculiar)
    assert str(type(model)) == str(Peculiar)
    assert torch.equal(model(inputs), before)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    memory.DynamicSwapInstaller.uninstall_model(model)
    memory.DynamicSwapInstaller.uninstall_model(model)
    assert [type(module) for module in model.modules()] == classes
    assert "_class_before_swap" not in model.__dict__


@pytest.fixture
def complete() -> Iterator[None]:
    yield
    memory.unload_complete_models()


def test_complete_models_leave_before_the_next(monkeypatch: pytest.MonkeyPatch, complete: None) -> None:
    first, second = stack(1), stack(1)
    memory.load_model_as_complete(first, "cpu")
    assert list(moves._complete_models()) == [first]
    memory.load_model_as_complete(second, "cpu")
    assert list(moves._complete_models()) == [second]
    memory.load_model_as_complete(first, "cpu", unload=False)
    assert len(moves._complete_models()) == 2
    memory.unload_complete_models()
    assert not moves._complete_models()


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    model, inputs = stack(30), torch.randn(2, 32)
    before = model(inputs)
    assert 0 < memory.get_cuda_free_memory_gb() < 10_000
    loan = Loan(model)
    loan.go(memory.gpu)
    torch.testing.assert_close(model(inputs.cuda()).cpu(), before, atol=1e-4, rtol=1e-4)
    loan.leave()
    assert torch.equal(model(inputs), before)
    memory.DynamicSwapInstaller.install_model(model, device=memory.gpu)
    torch.testing.assert_close(model(inputs.cuda()).cpu(), before, atol=1e-4, rtol=1e-4)
    memory.DynamicSwapInstaller.uninstall_model(model)
    memory.load_model_chunked(model, memory.gpu, 0.01)
    assert next(model.parameters()).is_cuda
    memory.offload_model_from_device_for_memory_preservation(model, memory.gpu, aggressive=True)
    assert torch.equal(model(inputs), before)
    memory.move_model_to_device_with_memory_preservation(model, memory.gpu, preserved_memory_gb=10_000)
    assert not next(model.parameters()).is_cuda
