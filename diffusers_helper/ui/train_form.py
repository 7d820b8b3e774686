"""The fields of a training as components, made of the order's own by one loop; and the way from values to an order."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio.components import Component

from ..request.fields import Field
from ..request.fields import fields as flat_fields
from ..training.order import TrainingOrder
from .page import Page

ASKED_FIRST = ("data", "out", "resume")
"""Those that the tab asks for in its own way, and what going on sets."""
OF_LOGS = ("logging_dir", "log_prefix", "log_with", "log_tracker_name", "wandb_run_name")
"""They name folders of the machine, and programs that use the network; the page shows the losses itself."""
AUTO = "auto"
"""What stands for no value, where a field may have none."""
FIELDS: Mapping[str, Field] = {
    name: field for name, field in flat_fields(TrainingOrder).items() if name not in (*ASKED_FIRST, *OF_LOGS)
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "network": ("network_module", "network_dim", "network_alpha", "network_args"),
    "learning": (
        "steps", "max_train_epochs", "learning_rate", "lr_scheduler", "lr_warmup_steps", "optimizer_type",
        "optimizer_args", "gradient_accumulation_steps", "max_grad_norm", "ema_decay",
    ),
    "noise": (
        "guidance_scale", "timestep_sampling", "discrete_flow_shift", "sigmoid_scale", "weighting_scheme", "logit_mean",
        "logit_std", "mode_scale", "min_timestep", "max_timestep", "preserve_distribution_shape",
    ),
    "files": (
        "save_every_n_steps", "save_every_n_epochs", "save_last_n_steps", "save_last_n_epochs", "form",
        "training_comment", "no_metadata",
    ),
    "looks": ("validation_split", "validate_every_n_steps"),
    "samples": ("sample_prompts", "sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"),
}  # fmt: skip
REST = "rest"
"""The group of all others."""


def groups() -> dict[str, tuple[str, ...]]:
    """Every field in one group."""
    placed = {name for names in GROUPS.values() for name in names}
    return {**GROUPS, REST: tuple(name for name in FIELDS if name not in placed)}


class TrainForm:
    """The components, by the names of their fields."""

    def __init__(self, page: Page, values: Mapping[str, Any]) -> None:
        """Placed in the layout that is open; ``values`` are those that differ from the order's own defaults."""
        self._placed: dict[str, Component] = {}
        for group, names in groups().items():
            with gr.Column(elem_classes="group"):
                page.t(gr.HTML, f"train.group_{group}", html_template="<h2>${value}</h2>")
                with gr.Row(elem_classes="fields"):
                    for name in names:
                        self._place(page, name, values.get(name, FIELDS[name].default))

    def _place(self, page: Page, name: str, value: Any) -> None:
        make, properties = _component(FIELDS[name])
        choices = choices_of(FIELDS[name])
        shown = shown_of(name, value)
        with gr.Column(elem_id=f"train-{name}", min_width=160):
            self._placed[name] = page.t(make, f"train.{name}", choices or None, value=shown, **properties)

    def __getitem__(self, name: str) -> Component:
        return self._placed[name]

    @property
    def components(self) -> list[Component]:
        """In the order of FIELDS."""
        return [self._placed[name] for name in FIELDS]


def choices_of(field: Field) -> tuple[str, ...]:
    """The names that a field can have; none where it is no choice."""
    kind = field.info.annotation
    if get_origin(kind) in (Union, types.UnionType):
        names = [name for each in get_args(kind) if get_origin(each) is Literal for name in get_args(each)]
        return (AUTO, *names) if names else ()
    return field.names or ()


def _component(field: Field) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What its type asks for. Numbers have no bounds of their own: the order refuses with the field's name."""
    if choices_of(field):
        return gr.Dropdown, {"filterable": False}
    made: Mapping[Any, tuple[Callable[..., Any], dict[str, Any]]] = {
        bool: (gr.Checkbox, {}),
        int: (gr.Number, {"precision": 0}),
        float: (gr.Number, {"step": 0.1}),
        tuple[str, ...]: (gr.Textbox, {"lines": 2, "max_lines": 6}),
    }
    return made.get(field.info.annotation, (gr.Textbox, {"max_lines": 1}))


def shown_of(name: str, value: Any) -> Any:
    """A field's value as its component shows it: of several texts each on a line of its own."""
    if value is None:
        return AUTO if choices_of(FIELDS[name]) else ""
    return "\n".join(value) if isinstance(value, tuple) else value


def fields_of(values: Sequence[Any]) -> dict[str, Any]:
    """The components' values as fields of an order, not validated."""
    return {name: _meant(FIELDS[name], value) for name, value in zip(FIELDS, values, strict=True)}


def _meant(field: Field, value: Any) -> Any:
    if field.info.annotation == tuple[str, ...]:
        return tuple(line.strip() for line in str(value or "").splitlines() if line.strip())
    may_be_none = type(None) in get_args(field.info.annotation)
    return None if may_be_none and value in (AUTO, "") else value
