"""The screen of the stage, and what can be looked at on it: functions of the job, and of its video being there still.

Every picture stands in a figure that says by ``data-shot`` what it is; the page's script shows the one that is wanted.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from ..jobs.job import Job
from ..request.output import Shown, output_by_suffix
from ..words import Texts
from .icons import svg
from .phrases import say

VIEWS = ("preview", "compare", "video", "start", "both")
"""What can be looked at; ``both`` is the start picture drawn over the video, as far as a slider says; ``compare`` the
video beside that of the job's twin."""

FRAMES_PER_LATENT = 4


def video(job: Job, texts: Texts, caption: str = "") -> str:
    """The start picture, and the finished frames as a playing video as soon as there are any.

    ``caption``: what stands over it where it is compared, as HTML.
    """
    return _start(job) + (_video(job, texts, caption) if has_video(job) else "")


def _start(job: Job) -> str:
    start = picture_address(job, "start.png")
    return f'<figure class="shot" data-shot="start"{_shape(job)}><img src="{start}" alt=""></figure>'


def picture_address(job: Job, name: str) -> str:
    """Where the start picture is served under this name, for HTML: another address for each picture, since a browser
    keeps what it has seen, and a queued job may get another one."""
    return escape(f"media/{job.id}/{name}?v={Path(job.request.shown_picture).stem[:8]}")


def _video(job: Job, texts: Texts, caption: str) -> str:
    label = say(texts, key_of("job.video_done" if job.state == "done" else "job.video_so_far", job, texts))
    return film(job, "video", label, caption, "autoplay muted loop playsinline")


def film(job: Job, shot: str, label: str, caption: str, how: str) -> str:
    """The result of a job; ``label``, ``caption`` and ``how`` a video plays are HTML."""
    if is_film(job):
        played = f'<video src="{address(job)}" data-fps="{job.progress.fps}" aria-label="{label}" {how}></video>'
    else:
        played = f'<img src="{moving_address(job) or poster_address(job)}" alt="{label}">'
    return f'<figure class="shot" data-shot="{shot}"{_shape(job)}>{played}{caption}</figure>'


def address(job: Job) -> str:
    """Where the result is served: another address for each that a job has had."""
    return escape(f"media/{job.id}/video{Path(job.progress.video or '').suffix}?v={job.progress.frames}")


def poster_address(job: Job) -> str:
    """Where a still of the result is served."""
    return f"media/{job.id}/poster.jpg?v={job.progress.frames}"


def moving_address(job: Job) -> str:
    """Where the result is served if a browser shows it; else empty."""
    return "" if _shown(job) == "still" else address(job)


def makes_picture(job: Job) -> bool:
    """Whether it makes one picture and no video."""
    return job.order is None and job.request.kind.result == "picture"


def key_of(key: str, job: Job, texts: Texts) -> str:
    """The text ``key`` as it is said of what the job is: of a picture or a training another one, where there is one."""
    if job.order is None and not makes_picture(job):
        return key
    of_its_own = f"{key}_{'training' if job.order else 'picture'}"
    return of_its_own if of_its_own in texts else key


def is_film(job: Job) -> bool:
    """Whether the result plays as a video, frame by frame."""
    return _shown(job) == "film"


def _shown(job: Job) -> Shown:
    made = output_by_suffix(Path(job.progress.video or "").suffix)
    return made.shown if made else "film"


def preview(job: Job, texts: Texts) -> str:
    """What the running section looks like to the model by now: its latent frames side by side, run through in time."""
    if not has_preview(job):
        return ""
    frames = job.request.latent_window
    seconds = frames * FRAMES_PER_LATENT / (job.progress.fps or job.request.fps)
    pace = f"--frames: {frames}; animation: film {seconds:.2f}s steps({frames}) infinite"
    picture = f'<img src="media/{job.id}/preview.png?v={job.progress.previews}" alt="" style="{pace}">'
    label = say(texts, "job.preview")
    return (
        f'<figure class="shot film" data-shot="preview"{_shape(job)} role="img" aria-label="{label}">{picture}</figure>'
    )


def has_preview(job: Job) -> bool:
    """Whether there is a look at the section that is being made."""
    return job.state == "running" and job.progress.preview is not None and job.progress.step is not None


def has_video(job: Job) -> bool:
    """Whether there is a video, and it has not gone from its folder."""
    return bool(job.progress.video) and Path(job.progress.video or "").is_file()


def views(job: Job, texts: Texts, has_twin: bool = False, more: str = "") -> str:
    """What can be looked at, as buttons; how large the picture really is; and the player of a video.

    ``more``: what could be looked at once it is made, as HTML.
    """
    offered = offered_views(job, has_twin)
    buttons = "".join(
        f'<button type="button" data-view="{view}">{say(texts, key_of(f"job.view_{view}", job, texts))}</button>'
        for view in offered
    )
    group = f'<div class="segments" role="group" aria-label="{say(texts, "job.views")}">{buttons}</div>'
    progress = job.progress
    size = f'<span class="size">{progress.width} × {progress.height}</span>' if progress.width else ""
    return (
        f'{player(job, texts)}<div class="views" data-job="{job.id}" data-default="{offered[0]}">'
        f"{group if len(offered) > 1 else ''}{more}{size}</div>"
    )


def offered_views(job: Job, has_twin: bool = False) -> list[str]:
    """Those of VIEWS that there are, the best first."""
    video = has_video(job)
    there = {
        "preview": has_preview(job),
        "video": video,
        "start": True,
        "both": video and (is_film(job) or makes_picture(job)) and job.state == "done",
    }
    there["compare"] = has_twin
    return [view for view in VIEWS if there[view]]


def player(job: Job, texts: Texts) -> str:
    """Buttons and a slider for the video, frame by frame; of one picture the slider that says how much of the start
    picture is drawn over it; empty where nothing plays."""
    progress = job.progress
    if has_video(job) and makes_picture(job):
        return f'<div class="player">{_cut(job, texts)}</div>'
    if not (has_video(job) and is_film(job)):
        return ""

    def button(name: str) -> str:
        words = say(texts, f"job.player_{name}")
        return (
            f'<button type="button" class="q-icon" data-player="{name}" aria-label="{words}" '
            f'title="{words}">{_drawing(name)}</button>'
        )

    at = say(texts, "job.player_place")
    place = f'<input type="range" min="1" max="{progress.frames}" value="1" data-place aria-label="{at}">'
    count = f'<output>1</output><span class="of"> / {progress.frames}</span>'
    keys = button("play") + button("back") + place + button("forward") + f'<span class="count">{count}</span>'
    more = _cut(job, texts) + button("loop") + button("full")
    return f'<div class="player" data-frames="{progress.frames}">{keys}{more}</div>'


def _cut(job: Job, texts: Texts) -> str:
    words = say(texts, key_of("job.player_cut", job, texts))
    return f'<input type="range" min="0" max="100" value="50" data-cut aria-label="{words}">'


def _drawing(name: str) -> str:
    if name != "play":
        return svg(name)
    return f'<span class="when-paused">{svg("play")}</span><span class="when-playing">{svg("pause")}</span>'


def _shape(job: Job) -> str:
    progress = job.progress
    return f' style="--wide: {progress.width}; --high: {progress.height}"' if progress.width else ""
