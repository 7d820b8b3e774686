"""The request as a form: one table of fields, their components, and the way from values to a request and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from ..models.table import Checkpoint
from ..request import DRAW_A_SEED, Recipe, Request
from ..request.fields import PICTURE, PICTURES
from ..request.fields import Field as FlatField
from ..request.fields import fields as flat_fields
from ..words import Texts
from . import controls
from .app_context import AppContext
from .form_values import EMBEDDING, OFFERED, choices_of, is_allowed, meant_by, offered_of, shown_of
from .loras import LORAS, pinned, settled
from .options import KIND, OUTPUT, Places, out_of_sight, parameters_of
from .page import PRIVATE, Page
from .resets import Resets
from .server import uploads_folder
from .translation import worded


@dataclass(frozen=True)
class Field:
    """One field of a request: the component it has, and its properties beyond words and value."""

    name: str
    make: Callable[..., Any]
    properties: Mapping[str, Any]


def _field(name: str, make: Callable[..., Any], **properties: Any) -> Field:
    return Field(name, make, properties)


def _number(name: str, step: float) -> Field:
    """Without bounds of its own: the request refuses with the field's name."""
    return _field(name, gr.Number, step=step)


def _parameters(choice: str) -> tuple[Field, ...]:
    """The parameters of all options of a choice."""
    return tuple(_parameter(field) for field in flat_fields(Recipe).values() if field.decided_by == choice)


def _parameter(field: FlatField) -> Field:
    """The component that its type asks for."""
    if field.name == EMBEDDING:
        return _field(field.name, gr.Dropdown, allow_custom_value=True)
    if field.name == controls.CONTROL_INDEX:
        return _field(field.name, gr.Textbox, max_lines=1)
    if field.names:
        return _field(field.name, gr.Radio)
    made: Mapping[Any, Field] = {
        bool: _field(field.name, gr.Checkbox),
        str: _field(field.name, gr.Textbox, lines=2, max_lines=4),
        int: _number(field.name, 1),
    }
    return made.get(field.info.annotation, _number(field.name, 0.01))


def _start_picture(**properties: Any) -> gr.Image:
    """An image that hands on its path unread: the queue judges the file, with words for one that is gone or is none.

    Gradio would open it at every change in the form, and break off without a word.
    """
    picture = gr.Image(type="filepath", image_mode=None, **properties)
    setattr(picture, "preprocess", lambda given: given and given.path)  # noqa: B010
    return picture


FIELDS: tuple[Field, ...] = (
    _field(KIND, gr.Radio),
    _field(PICTURE, _start_picture, sources=["upload", "clipboard"], height=208),
    _field("prompt", gr.Textbox, lines=3, max_lines=8),
    _number("seconds", 0.6),
    _field(LORAS, gr.Textbox),
    _field(PICTURES, gr.Textbox),
    *_parameters(KIND),
    _field("size", gr.Dropdown, allow_custom_value=True),
    _field("seed", gr.Textbox, max_lines=1),
    _number("steps", 1),
    _field("step_cache", gr.Radio),
    *_parameters("step_cache"),
    _number("distilled_guidance", 0.1),
    _number("real_cfg", 0.1),
    _number("cfg_rescale", 0.01),
    _field("negative_prompt", gr.Textbox, lines=2, max_lines=6),
    _number("latent_window", 1),
    _number("rope_scaling_factor", 0.05),
    _number("rope_scaling_timestep_threshold", 50),
    _field("lora_mode", gr.Radio),
    _field("decoding", gr.Radio),
    _field(OUTPUT, gr.Radio),
    *_parameters(OUTPUT),
    _number("preserved_memory_gb", 0.5),
)
"""The flat values of a request that the page offers. The seed is a text: JavaScript's numbers end at 2^53. So are
LoRAs, which the page's script shows (shelf.js), and the pictures of one picture (one_frame.js).
"""

NAMES = tuple(field.name for field in FIELDS)
TEXTS = (LORAS, PICTURES)
"""Fields that scripts show, and keep as texts."""
ONLY_VIDEOS = ("seconds", "decoding")
"""Fields that one picture has no use for."""
NO_PICTURE_HAS = (PICTURE, OUTPUT, *parameters_of(OUTPUT))
"""Fields that one picture cannot have: it begins with what is in the slots, and its file is of a kind of its own."""

FOLLOW_CHECKPOINT = ("seconds", KIND, "size")
"""Fields that another checkpoint sets: its defaults, and what it offers."""


def changes(components: Iterable[Component]) -> list[Any]:
    """The change events of components, for ``gr.on``."""
    return [component.change for component in components]  # type: ignore[attr-defined]


class Form:
    """The components of a request. ``place`` makes them, where the layout wants them; every field is placed once.

    Attributes:
        checkpoint: the name of the checkpoint that the form is for; None while there is none.
        resets: below each field its default, and the way back to it.
        places: of each option the place of its parameters; only that of the chosen one is in sight.
        editing: a hidden number, the queued job that the form changes; 0 while it makes new ones. To edit a job,
            return ``form.values_of(...)`` for ``form.components`` and the job's id for ``form.editing``. When it is 0
            again, the draft comes back (starting.py).
        now: hidden; in its place a handler gets what all components show as one text, see draft.py.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._placed: dict[str, Component] = {}
        self.resets = Resets()
        self.places = Places()
        names, now = page.context.installed_names, page.context.checkpoint
        self.checkpoint: gr.Dropdown = page.t(
            gr.Dropdown,
            "generate.checkpoint",
            lambda: page.context.installed_names,
            value=now and now.name,
            visible=len(names) > 1,
            elem_id="checkpoint",
            container=False,
            filterable=False,
            scale=0,
            min_width=160,
        )
        self.editing = gr.Number(0, visible="hidden", precision=0)
        self.now = gr.Textbox(visible="hidden")

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Field -> value, for the chosen checkpoint."""
        return defaults_of(self._page.context.checkpoint, self._page.context)

    @property
    def chosen_outputs(self) -> list[Component]:
        """What ``chosen`` fills."""
        return [self._placed[name] for name in FOLLOW_CHECKPOINT]

    def chosen(self, checkpoint: Checkpoint, texts: Texts) -> list[Any]:
        """The form for another checkpoint: what it offers, and its defaults."""
        defaults = defaults_of(checkpoint, self._page.context)
        return [self._update(name, defaults[name], checkpoint, texts) for name in FOLLOW_CHECKPOINT]

    def choices(self, checkpoint: Checkpoint | None, texts: Texts) -> list[dict[str, Any]]:
        """For OFFERED, in its order: what a checkpoint offers; values stay."""
        offered = {name: choices_of(name, checkpoint) or () for name in OFFERED}
        return [gr.update(choices=worded(f"generate.{name}", given, texts)) for name, given in offered.items()]

    def _update(self, name: str, value: Any, checkpoint: Checkpoint, texts: Texts) -> dict[str, Any]:
        choices = choices_of(name, checkpoint)
        if choices is None:
            return gr.update(value=self._as_shown(name, value))
        return gr.update(value=shown_of(name, value), choices=worded(f"generate.{name}", choices, texts))

    @property
    def components(self) -> list[Component]:
        """In the order of FIELDS."""
        return [self._placed[name] for name in NAMES]

    def __getitem__(self, name: str) -> Component:
        return self._placed[name]

    def place(self, name: str, **properties: Any) -> Component:
        """The component of a field, in the layout that is open."""
        field = next(field for field in FIELDS if field.name == name)
        component: Component = self._page.t(
            field.make,
            f"generate.{name}",
            choices=(lambda: choices_of(name, self._page.context.checkpoint) or ())
            if name in (*OFFERED, EMBEDDING)
            else choices_of(name, None),
            value=self._as_shown(name, self.defaults.get(name)),
            **{**field.properties, **properties},
        )
        self._placed[name] = component
        return component

    def place_with_reset(self, name: str, **properties: Any) -> Component:
        """The same with its default below it, and the way back to that, once the value is another."""
        with gr.Column(elem_classes="with-reset", min_width=220):
            component = self.place(name, **properties)
            if name == "seed":
                self._die(component)
        self.resets.fields[name] = component
        return component

    def place_of(self, choice: str, option: str) -> gr.Column:
        """The place for an option's parameters, to be opened and filled."""
        return self.places.place(choice, option)

    def _die(self, seed: Component) -> None:
        """A button that asks for another seed in each video."""
        die = self._page.t(gr.Button, "generate.seed_die", size="sm", elem_classes="reset", elem_id="seed-die")
        die.click(None, None, seed, js=f"() => '{DRAW_A_SEED}'", **PRIVATE)

    def resets_text(self, shown: Mapping[str, Any], texts: Texts, chosen: str | None = None) -> str:
        """What the script is told of defaults, see resets.py."""
        return self.resets.text(shown, defaults_of(self._page.context.shown(chosen), self._page.context), texts)

    def offered(self, fields: Mapping[str, Any], chosen: str | None = None) -> dict[str, Any]:
        """Those of ``fields`` that can have their value with the checkpoint that the page shows."""
        return offered_of(self._page.context.shown(chosen), fields)

    def values_of(self, fields: Mapping[str, Any], chosen: str | None = None) -> list[Any]:
        """What the components show for the fields of a request; those that are not given stay as they are.

        So does a kind or a size that the checkpoint does not make which the page shows.
        """
        offered = self.offered(fields, chosen)
        return [self._as_shown(name, offered[name]) if name in offered else gr.skip() for name in NAMES]

    def values_for(self, fields: Mapping[str, Any], checkpoint: Checkpoint, texts: Texts) -> list[Any]:
        """The same for another checkpoint, with what it offers."""
        offered = offered_of(checkpoint, fields)
        return [
            self._update(name, offered[name], checkpoint, texts) if name in offered else gr.skip() for name in NAMES
        ]

    def fields_of(self, values: Sequence[Any]) -> dict[str, Any]:
        """The components' values as fields of a request, not validated; without the picture when there is none, and
        without what makes no sense in parameters that are out of sight. LoRAs have their contents as far as these are
        known. One picture has a control picture for each place, which has no path where its slot is empty; a video has
        none.
        """
        fields = self.meant(dict(zip(NAMES, values, strict=True)))
        fields[LORAS] = pinned(fields[LORAS], self._page.context.loras)
        makes_picture = controls.is_one_frame(fields)
        away = out_of_sight(fields).union(ONLY_VIDEOS if makes_picture else ())
        fields[PICTURES] = controls.at_places(fields) if makes_picture else ()
        useless = NO_PICTURE_HAS if makes_picture else (PICTURES,)
        fields = {name: value for name, value in fields.items() if name not in useless}
        return {name: value for name, value in fields.items() if name not in away or is_allowed(name, value)}

    def meant(self, shown: Mapping[str, Any]) -> dict[str, Any]:
        """The same for some components by name; of the slots all."""
        fields = {name: self._meant(name, value) for name, value in shown.items() if name in NAMES}
        return {name: value for name, value in fields.items() if name != PICTURE or value}

    def _meant(self, name: str, value: Any) -> Any:
        return controls.from_text(value, self.uploads) if name == PICTURES else meant_by(name, value)

    def _as_shown(self, name: str, value: Any) -> Any:
        return controls.as_text(value or (), self.uploads) if name == PICTURES else shown_of(name, value)

    @property
    def uploads(self) -> Path:
        """Where what was uploaded lies."""
        return uploads_folder(self._page.context.settings.paths.output_dir)

    def usable(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``fields`` that a request takes: for what comes from a browser's memory."""
        return {
            name: value
            for name, value in fields.items()
            if name in NAMES and (name in TEXTS or is_allowed(name, value))
        }

    def request_of(self, values: Sequence[Any], chosen: str | None = None) -> Request:
        """The request that the components' values mean, for a checkpoint.

        Raises:
            InvalidRequest: no picture, a field that is out of range, or a LoRA that cannot be used; names it.
        """
        return Request.parse(self.asked(values, chosen))

    def asked(self, values: Sequence[Any], chosen: str | None = None) -> dict[str, Any]:
        """The fields of that request. Raises InvalidRequest for an empty slot, or a LoRA that cannot be used."""
        fields = self.settled(self.fields_of(values), chosen)
        controls.refuse_empty(fields)
        return fields

    def settled(self, fields: Mapping[str, Any], chosen: str | None = None) -> dict[str, Any]:
        """The same fields with every LoRA found, to be kept. Waits for what is being read. Raises InvalidRequest."""
        context = self._page.context
        return {**fields, LORAS: settled(fields[LORAS], context.loras, context.shown(chosen))}


def defaults_of(checkpoint: Checkpoint | None, context: AppContext) -> dict[str, Any]:
    """Field -> value: what the checkpoint wishes, else the request's own."""
    own = flat_fields(Recipe)
    return {
        **{name: own[name].default for name in NAMES if name in own},
        PICTURES: (),
        **context.defaults(checkpoint),
    }
