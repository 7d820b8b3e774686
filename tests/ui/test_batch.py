"""Jobs that were queued together: kept as such, shown as a grid with what tells them apart, saved on one sheet; and
what the stage shows of a job that makes one picture."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.errors import UnusablePicture
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.request import Request
from diffusers_helper.request.sweep import cells, read_axis
from diffusers_helper.ui import acts, fragments, recent, screen
from diffusers_helper.ui.batch import columns_of, labels_of
from diffusers_helper.ui.fragments_queue import Wish
from diffusers_helper.words import Texts

from ..jobs_support import SIZE, ended, make_picture
from .serving import Served, serving
from .test_fragments_queue import Seen
from .test_routes import get

EN = Texts("en")


def requests(picture: Path, *axes: str, **fields: Any) -> list[Request]:
    pictures = [{"role": "control", "path": str(picture)}]
    flat = {"kind": "one_frame", "seed": 5, "steps": 2, "prompt": "a <b>wave</b>", "pictures": pictures, **fields}
    return [Request.parse(cell) for cell in cells(flat, [read_axis(axis) for axis in axes])]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "outputs") as place:
        yield place


@pytest.fixture(scope="module")
def jobs(served: Served, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """A batch of two by three, done."""
    wide = tmp_path_factory.mktemp("pictures") / "wide.png"
    Image.fromarray(np.arange(128 * SIZE * 3, dtype=np.uint8).reshape(SIZE, 128, 3)).save(wide)
    added = served.queue.add_batch(requests(wide, "seed=5,6", "target_index=1..3"))
    return [ended(served.queue, job.id) for job in added]


def rendered(served: Served, job: Job, language: str = "en") -> dict[str, str]:
    return fragments.render(served.context, language, Wish(show=job.id))


def test_a_batch_is_kept_over_a_new_start_and_all_of_it_or_nothing_is_queued(tmp_path: Path) -> None:
    queue, picture = JobQueue(tmp_path / "outputs"), make_picture(tmp_path)
    alone = queue.add(requests(picture, "seed=1")[0])
    batch = queue.add_batch(requests(picture, "seed=1..3"))
    assert [job.batch for job in (alone, *batch)] == [0, *[batch[0].id] * 3]
    assert [job.request.seed for job in queue.jobs()] == [1, 1, 2, 3], "in their order"
    gone = Request.parse({"kind": "one_frame", "pictures": [{"role": "control", "path": str(tmp_path / "gone.png")}]})
    with pytest.raises(UnusablePicture):
        queue.add_batch([*requests(picture, "seed=9"), gone])
    queue.close()
    again = JobQueue(tmp_path / "outputs")
    assert [job.batch for job in again.jobs()] == [0, *[batch[0].id] * 3]
    assert again.snapshot(batch[1].id)["batch"] == batch[0].id


def test_the_grid_says_what_tells_the_cells_apart(served: Served, jobs: list[Job]) -> None:
    shown = rendered(served, jobs[1])["batch"]
    buttons = Seen(shown).all("button")
    assert [button["data-wish"] for button in buttons] == [f"show={job.id}" for job in jobs]
    assert [button.get("aria-current") for button in buttons] == [None, "true", None, None, None, None]
    assert len(Seen(shown).all("img")) == len(jobs)
    labels = list(labels_of(jobs, EN).values())
    assert len(set(labels)) == len(jobs)
    assert all("5" in label for label in labels[:3])
    assert columns_of(jobs) == 3
    assert columns_of(jobs[:3]) == 2, "of one list, as square as can be"
    assert "--columns: 3" in shown


def test_a_job_by_itself_has_no_grid(served: Served, jobs: list[Job], tmp_path: Path) -> None:
    job = ended(served.queue, served.queue.add(requests(make_picture(tmp_path), "seed=7")[0]).id)
    assert rendered(served, job)["batch"] == ""


def test_all_are_saved_on_one_sheet(served: Served, jobs: list[Job]) -> None:
    answer = get(served, f"/media/{jobs[0].id}/sheet.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(answer.content)) as image:
        sheet = np.asarray(image)
        assert image.width > 3 * SIZE
        assert image.height > 2 * SIZE
    shades = {(10 * job.request.seed) % 256 for job in jobs}
    assert all((sheet == shade).all(axis=-1).sum() >= 3 * SIZE * SIZE for shade in shades)
    alone = get(served, "/media/999999/sheet.png")
    assert alone.status_code == 404


def test_the_stage_of_a_picture(served: Served, jobs: list[Job]) -> None:
    """No section, no frame and no second is told of it; a slider draws the start picture over it, at its size."""
    shown = rendered(served, jobs[0])
    assert screen.offered_views(jobs[0]) == ["video", "start", "both"]
    assert "data-cut" in shown["views"]
    assert "data-place" not in shown["views"]
    assert "frames" not in shown["job"]
    assert f"{SIZE} × {SIZE} · seed 5" in shown["job"]
    assert "picture</span>" in recent.recent(jobs, jobs[1], EN)
    start = get(served, f"/media/{jobs[0].id}/start.png")
    with Image.open(io.BytesIO(start.content)) as image:
        assert image.size == (SIZE, SIZE)
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(jobs[0].request.shown_picture))[:, 32:96])
    assert "<b>" not in json.dumps(shown)


def test_a_picture_can_be_deleted_and_brought_back(served: Served, tmp_path: Path) -> None:
    job = ended(served.queue, served.queue.add(requests(make_picture(tmp_path), "seed=8")[0]).id)
    result = served.queue.result(job.id)
    assert {"save", "trash"} <= {offer.act for offer in (*acts.offers(job, EN), acts.Offer("trash", job.id, ""))}
    served.queue.trash(job.id)
    assert not result.exists()
    served.queue.restore(job.id)
    assert result.is_file()
