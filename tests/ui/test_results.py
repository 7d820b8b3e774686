"""Results of every kind on the page: shown as what they are, served, saved under their name, and read back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client
from PIL import Image

from diffusers_helper.jobs.job import Job
from diffusers_helper.media.stills import middle_still
from diffusers_helper.recall import recall
from diffusers_helper.request.output import OUTPUTS, Shown
from diffusers_helper.ui import acts, screen
from diffusers_helper.ui.comparison import Pair
from diffusers_helper.ui.fragments_queue import _media
from diffusers_helper.words import Texts

from ..jobs_support import ended, make_picture, make_request
from .serving import Served, serving
from .test_fragments_queue import Seen
from .test_routes import get

EN = Texts("en")
FILMS = ("mp4", "webm")
KINDS: dict[str, tuple[str, Shown]] = {
    name: (made.suffix, made.shown) for name, made in OUTPUTS.items() if made.result == "video"
}
of_every_kind = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "outputs") as place:
        yield place


@pytest.fixture(scope="module")
def jobs(served: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """A finished job for every kind of file."""
    picture = make_picture(tmp_path_factory.mktemp("pictures"))
    added = {name: served.queue.add(make_request(picture, kind="f1", seconds=1, output=name)) for name in KINDS}
    return {name: ended(served.queue, job.id) for name, job in added.items()}


@of_every_kind
def test_it_is_served_with_its_type_and_in_parts(served: Served, jobs: dict[str, Job], name: str) -> None:
    job, suffix = jobs[name], KINDS[name][0]
    content = served.queue.result(job.id).read_bytes()
    whole = get(served, f"/media/{job.id}/video{suffix}")
    assert (whole.status_code, whole.headers["content-type"]) == (200, OUTPUTS[name].media_type)
    assert whole.content == content
    part = get(served, f"/media/{job.id}/video{suffix}", Range="bytes=10-19")
    assert (part.status_code, part.content) == (206, content[10:20])
    for other in {kind[0] for kind in KINDS.values()} - {suffix}:
        assert get(served, f"/media/{job.id}/video{other}").status_code == 404


@of_every_kind
def test_its_poster_is_its_middle_frame(served: Served, jobs: dict[str, Job], name: str) -> None:
    answer = get(served, f"/media/{jobs[name].id}/poster.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    poster = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
    assert np.abs(poster - middle_still(served.queue.result(jobs[name].id))).mean() < 6


@of_every_kind
def test_the_stage_shows_it_as_what_it_is(jobs: dict[str, Job], name: str) -> None:
    job, (suffix, shown) = jobs[name], KINDS[name]
    figure = Seen(screen.video(job, EN))
    (start, *images), videos = figure.all("img"), figure.all("video")
    assert "start.png" in str(start["src"])
    address = f"media/{job.id}/video{suffix}?v={job.progress.frames}"
    poster = f"media/{job.id}/poster.jpg?v={job.progress.frames}"
    assert [film["src"] for film in videos] == ([address] if shown == "film" else [])
    assert [image["src"] for image in images] == (
        [] if shown == "film" else [address if shown == "picture" else poster]
    )
    assert bool(screen.player(job, EN)) == (name in FILMS)
    assert ("both" in screen.offered_views(job)) == (name in FILMS)


@of_every_kind
def test_the_history_moves_what_can_move(jobs: dict[str, Job], name: str) -> None:
    job, (suffix, shown) = jobs[name], KINDS[name]
    (card,) = Seen(_media(job, EN)).all("button")
    moving = {key: card[key] for key in ("data-film", "data-moving") if key in card}
    address = f"media/{job.id}/video{suffix}?v={job.progress.frames}"
    assert moving == {"film": {"data-film": address}, "picture": {"data-moving": address}, "still": {}}[shown]


@of_every_kind
def test_it_is_saved_under_its_own_name(jobs: dict[str, Job], name: str) -> None:
    job = jobs[name]
    (save,) = [offer for offer in acts.offers(job, EN) if offer.act == "save"]
    assert save.saves == Path(job.progress.video or "").name
    assert Path(save.saves).suffix == KINDS[name][0]
    assert save.address == screen.address(job)


@of_every_kind
def test_films_alone_are_compared(jobs: dict[str, Job], name: str) -> None:
    job = jobs[name]
    assert ("compare" in [offer.act for offer in acts.offers(job, EN)]) == (name in FILMS)
    why = Pair(job, jobs["mp4"]).hindrance(EN)
    assert why == ("" if name in FILMS else f"Job {job.id} has made no MP4 or WebM, and only these can be compared.")


@of_every_kind
def test_a_program_gets_it_as_a_file(served: Served, jobs: dict[str, Job], name: str) -> None:
    client = Client(served.address, verbose=False)
    got = Path(client.predict(jobs[name].id, api_name="/result"))
    assert got.suffix == KINDS[name][0]
    assert got.read_bytes() == served.queue.result(jobs[name].id).read_bytes()


@of_every_kind
def test_its_settings_are_read_back(served: Served, jobs: dict[str, Job], name: str) -> None:
    found = recall(served.queue.result(jobs[name].id))
    expected: dict[str, Any] = jobs[name].request.recipe.flat()
    assert (found.source, found.fields, found.not_taken, found.ignored) == ("framepack", expected, (), ())
    assert found.fields["output"] == name


@of_every_kind
def test_it_can_be_uploaded_to_be_read(served: Served, jobs: dict[str, Job], name: str) -> None:
    file = served.queue.result(jobs[name].id)
    with served.client() as client:
        answer = client.post("/gradio_api/upload", files={"files": (file.name, file.read_bytes())})
    assert answer.status_code == 200, answer.text


@of_every_kind
def test_it_goes_to_the_trash_with_its_picture_and_comes_back(served: Served, jobs: dict[str, Job], name: str) -> None:
    file = served.queue.result(jobs[name].id)
    served.queue.trash(jobs[name].id)
    assert not file.exists()
    assert not file.with_suffix(".png").exists()
    served.queue.restore(jobs[name].id)
    assert file.is_file()
    assert file.with_suffix(".png").is_file()
