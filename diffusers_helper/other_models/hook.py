"""MagCache in a transformer of diffusers: on a step that is skipped, the lists of its blocks are empty.

Before the transformer is called it is decided whether its blocks run; if not, empty lists stand in their place until
it returns. After the embedder the tokens before the blocks are known. Before the last norm the residual is learnt, or
added. So what a transformer adds between its blocks (hints of VACE and of ControlNets) is in the residual, once.

Of diffusers' own MagCache this has the machinery, not the hooks: they stand in each block, where torch.compile then
compiles no block, and where such hints are added a second time; Chroma's blocks they do not know. The machinery lets
``cache_context``, ``_reset_stateful_cache`` and ``disable_cache`` reach the hooks here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import StateManager
from diffusers.hooks.mag_cache import _MAG_CACHE_LEADER_BLOCK_HOOK as NAME
from torch import Tensor, nn

from .rule import Plan
from .runs import Runs

EMBEDDERS = ("x_embedder", "patch_embedding")
BLOCKS = ("transformer_blocks", "single_transformer_blocks", "blocks", "vace_blocks")
"""What these parts are called in the transformers of the presets."""

Function = TypeVar("Function", bound=Callable[..., Any])


def eager(function: Function) -> Function:
    """Stays outside of what torch.compile compiles."""
    return cast(Function, torch.compiler.disable(function))


class Contexts(StateManager):
    """Where ``cache_context`` says which branch is called; here a call without one is no error."""

    def __init__(self) -> None:
        super().__init__(None)

    @property
    def now(self) -> Any:
        """The open context, if there is one."""
        return self._context


class EmbedderHook(ModelHook):
    """Sees the tokens before the blocks."""

    def __init__(self, runs: Runs) -> None:
        super().__init__()
        self._runs = runs

    @eager
    def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
        """See ModelHook."""
        if self._runs.call:
            self._runs.call.embedded = output
        return output


class NormHook(ModelHook):
    """Sees the tokens after the blocks. What is decided goes with it."""

    _is_stateful = True

    def __init__(self, transformer: nn.Module, runs: Runs) -> None:
        super().__init__()
        self._runs, self._contexts = runs, Contexts()
        self._decision = Decision(transformer, runs, self._contexts)

    @eager
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See ModelHook."""
        return (self._runs.end_blocks(args[0]), *args[1:]), kwargs

    def reset_state(self, module: nn.Module) -> nn.Module:
        """See ModelHook."""
        self._runs.clear()
        return module

    def deinitalize_hook(self, module: nn.Module) -> nn.Module:
        """See ModelHook."""
        self._decision.remove()
        self._runs.clear()
        return module


class Decision:
    """Around the transformer, as hooks of PyTorch: accelerate's offloading replaces ``forward`` and would drop ours."""

    def __init__(self, transformer: nn.Module, runs: Runs, contexts: Contexts) -> None:
        self._runs, self._contexts = runs, contexts
        self._positions = list(inspect.signature(type(transformer).forward).parameters)[1:]
        self._blocks: dict[str, nn.Module] = {}
        self._handles = [
            transformer.register_forward_pre_hook(self._before, with_kwargs=True),
            transformer.register_forward_hook(self._after, always_call=True),
        ]

    def remove(self) -> None:
        """Nothing is decided any more."""
        for handle in self._handles:
            handle.remove()

    @eager
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents, timestep = (self._argument(name, args, kwargs) for name in ("hidden_states", "timestep"))
        if not self._runs.begin_call(latents, float(torch.as_tensor(timestep).max()), self._contexts.now):
            self._blocks = {name: getattr(module, name) for name in BLOCKS if hasattr(module, name)}
            for name in self._blocks:
                setattr(module, name, nn.ModuleList())

    @eager
    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Also after an error."""
        for name, blocks in self._blocks.items():
            setattr(module, name, blocks)
        self._blocks = {}
        self._runs.call = None

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[self._positions.index(name)]


def install(transformer: nn.Module, plan: Plan) -> Runs:
    """Puts the hooks in; diffusers' ``remove_hook`` takes them out."""
    runs = Runs(plan)
    embedder = next(getattr(transformer, name) for name in EMBEDDERS if hasattr(transformer, name))
    HookRegistry.check_if_exists_or_initialize(embedder).register_hook(EmbedderHook(runs), NAME)
    norm = HookRegistry.check_if_exists_or_initialize(transformer.norm_out)
    norm.register_hook(NormHook(transformer, runs), NAME)
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()
    return runs
