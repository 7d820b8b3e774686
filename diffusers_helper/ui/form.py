"""The request as a form: one table of fields, their components, and the way from values to a request and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ..errors import InvalidRequest
from ..request import DRAW_A_SEED, Request
from .page import PRIVATE, Page
from .texts import Texts
from .words import number


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


def _start_picture(**properties: Any) -> gr.Image:
    """An image that hands on its path unread: the queue judges the file, with words for one that is gone or is none.

    Gradio would open it at every change in the form, and break off without a word.
    """
    picture = gr.Image(type="filepath", image_mode=None, **properties)
    setattr(picture, "preprocess", lambda given: given and given.path)  # noqa: B010
    return picture


FIELDS: tuple[Field, ...] = (
    _field("picture", _start_picture, sources=["upload", "clipboard"], height=208),
    _field("prompt", gr.Textbox, lines=3, max_lines=8),
    _number("seconds", 0.6),
    _field("kind", gr.Radio),
    _field("size", gr.Dropdown),
    _field("seed", gr.Textbox, max_lines=1),
    _number("steps", 1),
    _field("teacache", gr.Checkbox),
    _number("teacache_threshold", 0.01),
    _number("distilled_guidance", 0.1),
    _number("real_cfg", 0.1),
    _number("cfg_rescale", 0.01),
    _field("negative_prompt", gr.Textbox, lines=2, max_lines=6),
    _number("latent_window", 1),
    _number("mp4_crf", 1),
    _number("preserved_memory_gb", 0.5),
)
"""All fields of a request that have more than one value. The seed is a text: JavaScript's numbers end at 2^53."""

NAMES = tuple(field.name for field in FIELDS)
FITS_PICTURE = "fit"
LONGEST_NUMBER = 100
"""Characters; Python itself refuses to read numbers of thousands."""


def changes(components: Iterable[Component]) -> list[Any]:
    """The change events of components, for ``gr.on``."""
    return [component.change for component in components]  # type: ignore[attr-defined]


class Form:
    """The components of a request. ``place`` makes them, where the layout wants them; every field is placed once.

    Attributes:
        defaults: field -> value; the checkpoint's best kind, else the request's own.
        resets: the reset buttons, by field.
        editing: a hidden number, the queued job that the form changes; 0 while it makes new ones. To edit a job,
            return ``form.values_of(...)`` for ``form.components`` and the job's id for ``form.editing``. When it is 0
            again, the draft comes back (starting.py).
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._choices = {"kind": page.desk.kinds, "size": (FITS_PICTURE, *page.desk.sizes)}
        self._placed: dict[str, Component] = {}
        self.resets: dict[str, gr.Button] = {}
        self.defaults: Mapping[str, Any] = _defaults(page.desk.kinds)
        self.editing = gr.Number(0, visible="hidden", precision=0)

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
            choices=self._choices.get(name),
            value=_shown(name, self.defaults.get(name)),
            **{**field.properties, **properties},
        )
        self._placed[name] = component
        return component

    def place_with_reset(self, name: str, **properties: Any) -> Component:
        """The same with a button below it that says the default and brings it back, once the value is another."""
        with gr.Column(elem_classes="with-reset", min_width=220):
            component = self.place(name, **properties)
            if name == "seed":
                self._die(component)
            reset = gr.Button("", size="sm", elem_classes="reset", elem_id=f"reset-{name}", visible=False)
        default = _shown(name, self.defaults[name])
        reset.click(lambda: default, outputs=component, **PRIVATE)
        self.resets[name] = reset
        return component

    def _die(self, seed: Component) -> None:
        """A button that asks for another seed in each video."""
        die = self._page.t(gr.Button, "generate.seed_die", size="sm", elem_classes="reset", elem_id="seed-die")
        die.click(None, None, seed, js=f"() => '{DRAW_A_SEED}'", **PRIVATE)

    def reset_updates(self, shown: Mapping[str, Any], texts: Texts) -> list[dict[str, Any]]:
        """For ``resets``, in their order: what each default is, shown where there is anything to reset."""
        return [
            gr.update(
                value=texts("generate.default", value=self._default_in_words(name, texts)),
                visible=bool(shown[name] != _shown(name, self.defaults[name])),
            )
            for name in self.resets
        ]

    def _default_in_words(self, name: str, texts: Texts) -> str:
        default = _shown(name, self.defaults[name])
        if isinstance(default, bool):
            return texts("generate.on" if default else "generate.off")
        choice = f"generate.{name}_choice_{default}"
        if choice in texts:
            return texts(choice)
        return number(default) or texts("generate.default_empty")

    def values_of(self, fields: Mapping[str, Any]) -> list[Any]:
        """What the components show for the fields of a request; those that are not given stay as they are.

        So does a kind or a size that this checkpoint does not make.
        """
        return [
            _shown(name, fields[name]) if name in fields and self._offers(name, fields[name]) else gr.skip()
            for name in NAMES
        ]

    def fields_of(self, values: Sequence[Any]) -> dict[str, Any]:
        """The components' values as fields of a request, not validated; without the picture when there is none."""
        return self.meant(dict(zip(NAMES, values, strict=True)))

    def meant(self, shown: Mapping[str, Any]) -> dict[str, Any]:
        """The same for some components by name."""
        fields = {name: _meant(name, value) for name, value in shown.items() if name in NAMES}
        return {name: value for name, value in fields.items() if name != "picture" or value}

    def usable(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``fields`` that a request takes: for what comes from a browser's memory."""
        return {name: value for name, value in fields.items() if name in NAMES and _is_allowed(name, value)}

    def request_of(self, values: Sequence[Any]) -> Request:
        """The request that the components' values mean.

        Raises:
            InvalidRequest: no picture, or a field that is out of range; names it.
        """
        return Request.parse(self.fields_of(values))

    def _offers(self, name: str, value: Any) -> bool:
        return name not in self._choices or _shown(name, value) in self._choices[name]


def _is_allowed(name: str, value: Any) -> bool:
    try:
        Request.parse({"picture": "none", name: value})
    except InvalidRequest:
        return False
    return True


def _defaults(kinds: Sequence[str]) -> dict[str, Any]:
    defaults = {name: Request.model_fields[name].default for name in NAMES if name != "picture"}
    return {**defaults, "kind": kinds[0]}


def _shown(name: str, value: Any) -> Any:
    """A request's value as the component shows it."""
    match name:
        case "seed":
            return str(value)
        case "size":
            return value or FITS_PICTURE
    return value


def _meant(name: str, value: Any) -> Any:
    """A component's value as a request has it; what makes no sense is left for the request to refuse."""
    if name == "size":
        return None if value == FITS_PICTURE else value
    if name == "seed":
        text = str(value).strip()
        return int(text) if text.removeprefix("-").isdecimal() and len(text) <= LONGEST_NUMBER else text
    if isinstance(value, float) and value.is_integer() and Request.model_fields[name].annotation is int:
        return int(value)
    return value
