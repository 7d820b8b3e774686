"""The command line: the same requests as the page, without a browser.

Exit codes: 0 done, 1 failed, 2 something given cannot be used, 130 interrupted. torch is imported only when a command
needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from . import __version__, engines, lora_command, lora_ema, lora_flag, one_frame_command, settings, train_command
from .errors import FramePackError, InvalidRequest, OutputFailed, UnusableCheckpoint, UnusableInput
from .events import Cancelled, Events, Failed, Notice
from .interrupt import INTERRUPTED, StopSignal, stoppable
from .recipe_flags import RENAMED, add_field, given_fields, request_names
from .request import Recipe, Request
from .request.fields import PICTURE, asks_for_both, fields
from .request.output import OUTPUTS, output_by_suffix
from .settings import Settings
from .show import JsonLines, ProgressBars, Show
from .streams import Parser, flush_streams, last_words, prepare_streams
from .words import Message

if TYPE_CHECKING:
    from .engine import Engine

log = logging.getLogger(__name__)

FILES = (PICTURE, "request", "out", "save_latents", "resume")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    prepare_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        flush_streams()
        return INTERRUPTED
    except OSError as error:
        log.debug("refused by the system", exc_info=True)
        return last_words(error)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        chosen = settings.resolve(vars(options))
        prepare(chosen)
        return int(options.run(options, chosen))
    except FramePackError as error:
        return _refused(error, options)
    except OSError as error:
        if error.filename is None:
            raise
        log.debug("refused by the system", exc_info=True)
        return _refused(UnusableInput(f"{error.filename} cannot be used: {error.strerror}"), options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="framepack", description="One picture and a sentence become a video.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    usage = "%(prog)s --image PICTURE [--prompt PROMPT] [--seconds SECONDS] ..., and what --help lists"
    _add_generate(commands.add_parser("generate", help="make a video", usage=usage))
    one_frame = commands.add_parser("one-frame", help="make a picture of some moments later, by one or more pictures")
    one_frame_command.add_arguments(one_frame)
    one_frame.set_defaults(run=_generate)
    doctor = commands.add_parser("doctor", help="what this machine has, and what to mend")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)
    _add_calibrate(commands.add_parser("calibrate", help="measure the ratios that the step cache MagCache needs"))
    download = commands.add_parser("download", help="fetch the files of a large checkpoint")
    download.add_argument("name", help="framepack or framepack-f1")
    download.add_argument("--verify", action="store_true", help="check every file, and fetch damaged ones again")
    download.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    download.set_defaults(run=_download)
    engines.add_arguments(commands.add_parser("engines", help="list or remove compiled decoders"))
    train_command.add_arguments(
        commands.add_parser("train", help="make a LoRA of videos, or of pictures made of others")
    )
    lora_ema.add_arguments(commands.add_parser("lora-ema", help="average the LoRA files of one training"))
    for command in commands.choices.values():
        settings.add_flags(command)
    lora_command.add_arguments(commands.add_parser("lora", help="what a LoRA's file is, or the same in another form"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    wishes = parser.add_argument_group("the video")
    wishes.add_argument("--image", dest=PICTURE, help="path of the start picture")
    for field in fields(Recipe).values():
        if field.name != lora_flag.FIELD:
            add_field(wishes, field)
        if field.name == "step_cache":
            words = "the same as --step-cache teacache, or off"
            wishes.add_argument("--teacache", action=argparse.BooleanOptionalAction, help=words)
            words = "the same as --step-cache magcache; goes before --teacache"
            wishes.add_argument("--enable-magcache", action="store_const", const=True, default=None, help=words)
        if field.name == "decoding":
            words = "the same as --decoding quality"
            wishes.add_argument("--quality-mode", action="store_const", const=True, default=None, help=words)
    lora_flag.add_flag(wishes)
    words = "the whole video as JSON; - reads it from standard input"
    parser.add_argument("--request", metavar="FILE.json", help=words)
    words = "where the video goes, and by its suffix what it is; by default into the output folder"
    parser.add_argument("--out", help=words)
    parser.add_argument("--save-latents", metavar="FILE.safetensors", help="keep the latents of the video")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with a video that was broken off")
    parser.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    parser.set_defaults(run=_generate, asked=_request, axes=(), cells=())


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", dest="pictures", nargs="+", required=True, help="paths of start pictures")
    parser.add_argument("--prompt", dest="prompts", nargs="+", default=[""], help="one for each, or one for all")
    for name in ("kind", "seconds", "steps", "seed", "size"):
        add_field(parser.add_argument_group("the videos"), fields(Recipe)[name])
    parser.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    parser.set_defaults(run=_calibrate)


def prepare(chosen: Settings) -> None:
    """Logging, and what libraries read from the environment when they are imported.

    OpenMP threads that wait by spinning keep each other from the processor as soon as another program wants it too.
    Large tensors on a CPU come quicker in huge pages, where Linux grants them on request. Both are measured by
    bench/cpu_decoding.py. The encoder of AV1 would tell its settings on stderr.
    """
    os.environ.setdefault("SVT_LOG", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    logging.basicConfig(level=chosen.log.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    for line in chosen.lines():
        log.info("setting %s", line)
    if chosen.kernels.compile:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(chosen.paths.models_dir.absolute() / "compiled"))
    for name in settings.ALLOCATOR_VARIABLES:
        os.environ.pop(name, None)
    if chosen.memory.cuda_alloc_conf:
        os.environ.update(dict.fromkeys(settings.ALLOCATOR_VARIABLES, chosen.memory.cuda_alloc_conf))
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = os.environ["DIFFUSERS_VERBOSITY"] = "error"


def _generate(options: argparse.Namespace, chosen: Settings) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    _name_files(options)
    if options.resume:
        _check_resume(options, chosen)
    options.shelf = lora_flag.take(options, chosen)
    request = None if options.resume else options.asked(options, chosen)
    _check_outputs(options, chosen, request)
    show: Show = JsonLines() if options.json else ProgressBars()
    with StopSignal() as stop, show, ExitStack() as loaded:
        events = _begin(options, chosen, request, stop, show, loaded)
        return _exit_code(show, stoppable(events, lambda: stop.received))


def _calibrate(options: argparse.Namespace, chosen: Settings) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from .calibrate import calibrate, pairs
    from .models.table import find_checkpoint
    from .preparation import defaults, fit_pictures

    checkpoint = find_checkpoint(chosen.paths.checkpoint, chosen.paths.models_dir)
    common = {**given_fields(options), "step_cache": "magcache", "magcache_calibration": True}
    requests = [
        Request.parse({**common, PICTURE: picture, "prompt": prompt}, defaults(checkpoint))
        for picture, prompt in pairs(options.pictures, options.prompts)
    ]
    pictures = [fit_pictures(request, checkpoint) for request in requests]
    show: Show = JsonLines() if options.json else ProgressBars()
    from .engine import Engine

    with StopSignal() as stop, show, Engine.load(checkpoint, chosen) as engine:
        events = calibrate(requests, engine, chosen.paths.output_dir, pictures)
        return _exit_code(show, stoppable(events, lambda: stop.received))


def _name_files(options: argparse.Namespace) -> None:
    """Turn what was written for a file into its path."""
    for name in FILES:
        text = getattr(options, name)
        if text is not None:
            flag = RENAMED.get(name, name).replace("_", "-")
            setattr(options, name, settings.given_path(text, f"--{flag}"))


def _begin(
    options: argparse.Namespace,
    chosen: Settings,
    request: Request | None,
    stop: StopSignal,
    show: Show,
    loaded: ExitStack,
) -> Events:
    """The events of a new or a resumed generation. Cheap checks come before torch and the weights.

    What the checkpoint says of itself is shown before it is loaded. ``loaded`` closes the engine.
    """
    from .models.table import find_checkpoint

    if request is None:
        from .workfolder import WorkFolder

        source = WorkFolder.reopen(options.resume).manifest.checkpoint_source
        checkpoint = find_checkpoint(source, chosen.paths.models_dir)
    else:
        checkpoint = find_checkpoint(chosen.paths.checkpoint, chosen.paths.models_dir)
        from .preparation import defaults, fit_pictures

        if options.asked is _request and not options.request:
            request = Request.parse(_request_fields(options), defaults(checkpoint, chosen.sampling))
        pictures = fit_pictures(request, checkpoint)
        lora_flag.check(request, checkpoint, options.shelf, chosen)
    if words := checkpoint.about.sentences():
        show.event(Notice(message=words))
    if asks_for_both(given_fields(options)):
        show.event(Notice.of(Message("step_cache.both")))
    from .engine import Engine
    from .generate import generate, resume

    engine = loaded.enter_context(Engine.load(checkpoint, chosen, shelf=options.shelf))
    if stop.received:
        raise KeyboardInterrupt
    if request is None:
        return resume(options.resume, engine)
    if options.axes:
        return _sweep(options, chosen, engine)
    return generate(request, engine, chosen.paths.output_dir, options.out, options.save_latents, pictures=pictures)


def _sweep(options: argparse.Namespace, chosen: Settings, engine: Engine) -> Events:
    """The events of all pictures of a sweep; their sheet goes into the output folder by default."""
    from .media.files import day_folder, job_stem, make_folder
    from .sweep import sweep

    now, first, output_dir = datetime.now(), options.cells[0], chosen.paths.output_dir
    sheet = options.out or make_folder(day_folder(output_dir, now)) / f"{job_stem(now, first.seed)}.png"
    return sweep(options.axes, options.cells, engine, output_dir, sheet)


def _exit_code(show: Show, events: Events) -> int:
    code = 0
    with closing(events):
        for event in events:
            show.event(event)
            if isinstance(event, Failed):
                code = event.exit_code
            if isinstance(event, Cancelled):
                code = INTERRUPTED
    return code


def _request(options: argparse.Namespace, chosen: Settings) -> Request:
    """What is asked for, by flags or whole; a whole one is taken as it is, whatever the checkpoint does best."""
    if not options.request:
        return Request.parse(_request_fields(options))
    if extra := [name for name in request_names() if getattr(options, name, None) is not None]:
        raise InvalidRequest(f"--request says all of the video; leave out {', '.join(extra)}")
    try:
        text = sys.stdin.read() if str(options.request) == "-" else options.request.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"--request: it is not UTF-8: {error}") from None
    return Request.parse_json(text)


def _request_fields(options: argparse.Namespace) -> Mapping[str, Any]:
    given = given_fields(options)
    if PICTURE not in given:
        raise InvalidRequest("--image: is missing; give the path of the start picture")
    return {**_output_by_name(options, given), **given, PICTURE: str(given[PICTURE])}


def _output_by_name(options: argparse.Namespace, given: Mapping[str, Any]) -> Mapping[str, str]:
    """The output that --out names by its suffix, where no other flag chooses one."""
    made = output_by_suffix(options.out.suffix) if options.out else None
    of_others = (
        field.decided_by == "output" and field.option != made for field in map(fields(Recipe).get, given) if field
    )
    return {"output": made.name} if made and "output" not in given and not any(of_others) else {}


def _check_resume(options: argparse.Namespace, chosen: Settings) -> None:
    """Refuse what would be ignored."""
    names = (*request_names(), "request", "out", "save_latents")
    extra = [name for name in names if getattr(options, name, None) is not None]
    extra += [name for name in ("checkpoint", "output_dir") if chosen.origin[name] == "flag"]
    if extra:
        raise InvalidRequest(f"--resume takes everything from its folder; leave out {', '.join(extra)}")


def _check_outputs(options: argparse.Namespace, chosen: Settings, request: Request | None) -> None:
    """Refuse before any work what could not be written after it."""
    from .media.files import day_folder, require_folder, require_writable

    if not options.resume:
        with _refusing("the output folder"):
            require_folder(day_folder(chosen.paths.output_dir, datetime.now()))
    for flag, path, suffix in (
        ("--out", options.out, request.output.suffix if request else ""),
        ("--save-latents", options.save_latents, ".safetensors"),
    ):
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise InvalidRequest(f"{flag}: {path} is not the name of a {suffix} file{_remedy(flag, request)}")
        with _refusing(flag):
            require_writable(path)


def _remedy(flag: str, request: Request | None) -> str:
    """What else could be done about a name that is refused."""
    if flag != "--out" or request is None:
        return ""
    others = ", ".join(f"{made.suffix} for {name}" for name, made in OUTPUTS.items() if name != request.output.name)
    return f", which output {request.output.name} makes. Another --output has another one: {others}"


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """A place that cannot be written, as something that was given and cannot be used."""
    try:
        yield
    except OutputFailed as error:
        raise InvalidRequest(f"{what}: {error}") from None


def _doctor(options: argparse.Namespace, chosen: Settings) -> int:
    from . import doctor

    return doctor.main(chosen, options.json)


def _download(options: argparse.Namespace, chosen: Settings) -> int:
    from .models.download import download_checkpoint
    from .models.hub import Hub

    show: Show = JsonLines() if options.json else ProgressBars()
    if chosen.network.offline:
        _check_complete(options, chosen)
    with show:
        return _exit_code(
            show,
            download_checkpoint(options.name, chosen.paths.models_dir, Hub(chosen.network.endpoint), options.verify),
        )


def _check_complete(options: argparse.Namespace, chosen: Settings) -> None:
    """Refuse offline what would need the network."""
    from .models.table import find_checkpoint

    refusal = "--offline: nothing can be downloaded while offline is on"
    if options.verify:
        raise InvalidRequest(f"{refusal}, and --verify asks the hub for the hashes")
    try:
        find_checkpoint(options.name, chosen.paths.models_dir)
    except UnusableCheckpoint as error:
        raise InvalidRequest(f"{refusal}. {error}") from None


def _refused(error: FramePackError, options: argparse.Namespace) -> int:
    """An error before the first event: in words, and as the last event where events are asked for."""
    if getattr(options, "json", False) and options.run in (_generate, _calibrate, _download, train_command.run):
        JsonLines().event(Failed.of(error.said, exit_code=error.exit_code, folder=None))
    sys.stderr.write(f"error: {error}\n")
    return error.exit_code
