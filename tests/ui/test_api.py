"""The five public endpoints, as a program calls them; and every field of a request, as a hostile one would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from diffusers_helper.media.video import probe
from diffusers_helper.request import Recipe
from diffusers_helper.request.fields import fields
from diffusers_helper.ui.api import endpoints
from diffusers_helper.ui.server import uploads_folder

from ..jobs_support import Hold, at_step, ended, make_picture, make_request
from .serving import Served, serving, without_checkpoint

HUGE = 1e308


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("api")) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Client:
    return Client(served.address, verbose=False)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_picture(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def uploaded(served: Served, picture: Path) -> dict[str, Any]:
    """The picture on the server, as a raw request names it."""
    with served.client() as client:
        path = client.post("/gradio_api/upload", files={"files": picture.open("rb")}).json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def refusal(served: Served, *data: Any, endpoint: str = "submit") -> str:
    """What a raw request is told; nothing may have been queued."""
    before = len(served.queue.jobs())
    with served.client() as client:
        content, kind = json.dumps({"data": data}), {"Content-Type": "application/json"}
        answer = client.post(f"/gradio_api/run/{endpoint}", content=content, headers=kind)
    assert answer.status_code == 500, answer.text
    assert len(served.queue.jobs()) == before
    return str(answer.json()["error"])


# The endpoints.


def test_exactly_five_endpoints_are_public(served: Served) -> None:
    with served.client() as client:
        info = client.get("/gradio_api/info").json()
        paths = client.get("/gradio_api/openapi.json").json()["paths"]
    assert sorted(info["named_endpoints"]) == ["/cancel", "/list", "/result", "/status", "/submit"]
    assert info["unnamed_endpoints"] == {}
    called = sorted(path.rpartition("/")[2] for path in paths if "call" in path and "event_id" not in path)
    assert called == ["cancel", "list", "result", "status", "submit"]
    described = info["named_endpoints"]["/cancel"]
    assert "Stop a job" in described["description"]
    assert [parameter["parameter_name"] for parameter in described["parameters"]] == ["job_id", "keep"]
    assert described["parameters"][1]["type"] == {"enum": ["now", "section", "nothing"]}


def test_a_program_makes_a_video(served: Served, client: Client, picture: Path) -> None:
    request = {"prompt": "the camera pans left", "seconds": 1.2, "steps": 2}
    job_id = client.predict(handle_file(str(picture)), json.dumps(request), api_name="/submit")
    ended(served.queue, job_id)
    told = client.predict(job_id, api_name="/status")
    assert (told["state"], told["section"], told["sections"], told["step"], told["steps"]) == ("done", 1, 1, 2, 2)
    assert told["prompt"] == "the camera pans left"
    assert {"seconds_left", "notices", "error"} <= set(told)
    assert probe(Path(client.predict(job_id, api_name="/result"))).frames == told["frames"] == 37
    assert client.predict(job_id, api_name="/status") in client.predict(api_name="/list")


def test_without_a_kind_the_checkpoint_makes_what_it_does_best(served: Served, client: Client, picture: Path) -> None:
    absent = client.predict(handle_file(str(picture)), "{}", api_name="/submit")
    asked = client.predict(handle_file(str(picture)), '{"kind": "framepack"}', api_name="/submit")
    assert [ended(served.queue, job_id).request.kind.name for job_id in (absent, asked)] == ["f1", "framepack"]


@pytest.mark.parametrize("keep", ["now", "section", "nothing"])
def test_a_program_stops_a_job_and_says_what_it_keeps(served: Served, client: Client, picture: Path, keep: str) -> None:
    hold = Hold(at_step(2, 1))
    served.executor.after = hold
    job = served.queue.add(make_request(picture, seconds=3.6, kind="f1"))
    assert hold.reached.wait(60)
    assert client.predict(job.id, keep, api_name="/cancel")["stop"] == keep
    hold.go.set()
    assert ended(served.queue, job.id).state == "cancelled"
    told = client.predict(job.id, api_name="/status")
    assert told["state"] == "cancelled"
    if keep == "nothing":
        with pytest.raises(AppError, match="no video"):
            client.predict(job.id, api_name="/result")
    else:
        assert probe(Path(client.predict(job.id, api_name="/result"))).frames == told["frames"] > 0


def test_each_job_has_its_own_result_for_all_who_ask_at_once(served: Served, client: Client, picture: Path) -> None:
    """Unfinished videos have the same name in each work folder."""
    jobs = []
    for section in (1, 2):
        served.executor.after = hold = Hold(at_step(section + 1, 1))
        jobs.append(served.queue.add(make_request(picture, seconds=3.6, kind="f1")).id)
        assert hold.reached.wait(60)
        served.queue.cancel(jobs[-1], "now")
        hold.go.set()
        ended(served.queue, jobs[-1])
    offer = endpoints(served.context, uploads_folder(served.output_dir))["result"]
    with ThreadPoolExecutor(8) as pool:
        offered = list(pool.map(offer, jobs * 20))
    assert len({file["path"] for file in offered}) == 2
    assert [probe(Path(file["path"])).frames for file in offered[:2]] == [37, 73]


def test_without_a_checkpoint_a_request_is_refused_with_the_reason(
    served: Served, uploaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = without_checkpoint("download it with: start.sh download framepack")
    monkeypatch.setattr(served.context.checkpoints, "_find", missing._find)
    assert "start.sh download framepack" in refusal(served, uploaded, "{}")


def test_a_request_may_name_an_installed_checkpoint(served: Served, uploaded: dict[str, Any]) -> None:
    submit = endpoints(served.context, uploads_folder(served.output_dir))["submit"]
    job = ended(served.queue, submit(uploaded, json.dumps({"checkpoint": "scripted", "seconds": 1})))
    assert (job.state, job.checkpoint, job.snapshot()["checkpoint"]) == ("done", "scripted", "scripted")


# What is refused.


WRONG_NUMBERS = (float("nan"), float("inf"), float("-inf"), HUGE, -HUGE, "5", "", None, [5], {}, True)
WRONG_TEXTS = (5, 0.5, None, True, ["a"], {}, "x" * 10_001)
WRONG_SHARES = (float("nan"), "5", None, True, -0.1, 1.1)
WRONG_SWITCHES = (0, "true", None, [])
OF_CACHES = {name: field for name, field in fields(Recipe).items() if field.decided_by == "step_cache"}
WRONG: dict[str, tuple[Any, ...]] = {
    "schema_version": (0, 5, -1, "1", 1.5, None, float("nan")),
    "prompt": WRONG_TEXTS,
    "negative_prompt": WRONG_TEXTS,
    "seed": (*WRONG_NUMBERS, 2**63, -2, 0.5, 10**400),
    "seconds": (*WRONG_NUMBERS, 0, 0.99, 121, 10_000, -5),
    "steps": (*WRONG_NUMBERS, 0, 101, -1, 2.5),
    "distilled_guidance": (*WRONG_NUMBERS, 0.9, 33, -1),
    "real_cfg": (*WRONG_NUMBERS, 0.9, 33),
    "cfg_rescale": (*WRONG_NUMBERS, -0.1, 1.1),
    "latent_window": (*WRONG_NUMBERS, 0, 65, 1.5),
    "rope_scaling_factor": (*WRONG_NUMBERS, 0, -1, 0.05, 10.1),
    "rope_scaling_timestep_threshold": (*WRONG_NUMBERS, -0.1, 1000.1),
    "decoding": ("Lean", "", "other", 1, True, None, ["lean"]),
    "quality_mode": (0, 1, "true", None, []),
    "kind": ("F1", "", "other", 1, True, ["f1"], {}),
    "one_frame_target_index": (*WRONG_NUMBERS, -1, 65, 0.5),
    "one_frame_control_index": ("", ";", "0;", "a", "0,10", "0; 10", "1000", 0, None, [0, 10], "0;" * 5000),
    **dict.fromkeys(("one_frame_post", "one_frame_history_2x", "one_frame_history_4x"), WRONG_SWITCHES),
    "one_frame_embedding": ("", "Start", "control", "control_0", "control_100", 1, None),
    "step_cache": ("TeaCache", "", "other", 1, True, ["teacache"], {}),
    "teacache": (0, 1, "true", None, [], float("nan")),
    **dict.fromkeys(OF_CACHES, WRONG_SHARES),
    **{name: WRONG_SWITCHES for name, field in OF_CACHES.items() if field.info.annotation is bool},
    "teacache_threshold": (*WRONG_NUMBERS, -0.1, 1.1),
    "auto_strength": ("", "Fast", 1, None),
    "magcache_k": (*WRONG_NUMBERS, -1, 101, 0.5),
    "magcache_mag_ratios": ("many", "1, 0", "1,,2", [1, -1], None, True, "1, " * 5000),
    "seacache_threshold": (float("nan"), "5", None, True, -0.1, 2.1),
    "output": ("MP4", "", "avi", "png", 1, True, ["mp4"], {}),
    "mp4_crf": (*WRONG_NUMBERS, -1, 101, 0.5),
    "mp4_pixels": ("", "8 bit", "420", 8, None),
    "webm_codec": ("", "VP9", "h264", 9, None),
    "webm_crf": (*WRONG_NUMBERS, 0, 64, 0.5),
    "webp_quality": (*WRONG_NUMBERS, -1, 101, 0.5),
    "webp_lossless": WRONG_SWITCHES,
    "loras": (
        "a",
        None,
        5,
        [5],
        [{"name": "a"}],
        [{"name": "", "sha256": "a" * 64}],
        [{"name": "a", "sha256": "../a"}],
        [{"name": "a", "sha256": "a" * 64, "weight": 10.5}],
        [{"name": "a", "sha256": "a" * 64, "path": "/etc"}],
    ),
    "size": ("0x0", "64", "64x", "64x64x64", "-64x64", "64 x 64", "9999999x64", 64, True, [64, 64], "65x65", "640x480"),
    "fps": (29, 31, 0, -30, "30", None, float("inf")),
    "preserved_memory_gb": (*WRONG_NUMBERS, 5.9, 129),
    "lora_mode": ("", "Merged", "fused", 1, None),
}


def test_every_field_is_tried() -> None:
    assert set(WRONG) == {"schema_version", "fps", "teacache", "quality_mode", *fields(Recipe)}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_with_the_fields_name(
    served: Served, uploaded: dict[str, Any], field: str, value: Any
) -> None:
    """Or with that of a part of it."""
    assert re.match(rf"{field}(\.[\w.]+)?: ", refusal(served, uploaded, json.dumps({field: value})))


@pytest.mark.parametrize("name", ["framepack", "/etc", "../scripted", "", 5, None, ["scripted"], "x" * 999])
def test_a_checkpoint_that_is_not_installed_is_refused(served: Served, uploaded: dict[str, Any], name: Any) -> None:
    assert refusal(served, uploaded, json.dumps({"checkpoint": name})).startswith("checkpoint: ")


@pytest.mark.parametrize("field", ["sceconds", "__class__", "schema", "folder", "output_dir", ""])
def test_a_field_that_is_none_is_refused_with_its_name(served: Served, uploaded: dict[str, Any], field: str) -> None:
    assert refusal(served, uploaded, json.dumps({field: "/etc/passwd"})).startswith(f"{field}: " if field else "")


@pytest.mark.parametrize("version", [1, 2])
def test_a_request_of_any_version_has_the_checkpoints_defaults(
    served: Served, client: Client, picture: Path, version: int
) -> None:
    job = client.predict(handle_file(str(picture)), json.dumps({"schema_version": version}), api_name="/submit")
    assert ended(served.queue, job).request.kind.name == "f1"


def test_a_program_makes_a_picture_of_several(served: Served, client: Client, picture: Path, tmp_path: Path) -> None:
    other, mask = make_picture(tmp_path, "navy"), make_picture(tmp_path, "white")
    with served.client() as raw:
        sent = [("files", file.open("rb")) for file in (other, mask)]
        second_path, mask_path = raw.post("/gradio_api/upload", files=sent).json()
    asked = {"kind": "one_frame", "one_frame_control_index": "0;10", "steps": 2}
    asked |= {"others": [second_path], "masks": [None, {"path": mask_path}]}
    job = ended(served.queue, client.predict(handle_file(str(picture)), json.dumps(asked), api_name="/submit"))
    assert job.state == "done"
    first, second = job.request.pictures
    assert [Path(each.path).read_bytes() for each in (first, second)] == [picture.read_bytes(), other.read_bytes()]
    assert (first.mask, Path(second.mask or "").read_bytes()) == (None, mask.read_bytes())
    result = client.predict(job.id, api_name="/result")
    assert str(result).endswith(".png")


@pytest.mark.parametrize(
    ("fields", "others", "masks", "words"),
    [
        ({"kind": "f1"}, 1, 0, "others: f1 takes one picture, and no masks"),
        ({"kind": "one_frame"}, 1, 0, "one_frame_control_index: 0 has 1 place for 2 pictures"),
        ({"kind": "one_frame"}, 0, 2, "masks: 2 are given for 1 pictures"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(
    served: Served, uploaded: dict[str, Any], fields: dict[str, Any], others: int, masks: int, words: str
) -> None:
    told = refusal(served, uploaded, json.dumps({**fields, "others": [uploaded] * others, "masks": [uploaded] * masks}))
    assert words in told


@pytest.mark.parametrize("place", ["others", "masks"])
def test_other_pictures_are_uploads_too(served: Served, uploaded: dict[str, Any], place: str) -> None:
    for stranger in ("/etc/passwd", {"path": "/etc/passwd"}, 7, {"path": None}):
        told = refusal(served, uploaded, json.dumps({"kind": "one_frame", place: [stranger]}))
        assert told.startswith("picture: ")
    assert refusal(served, uploaded, json.dumps({"kind": "one_frame", place: "x"})).startswith(f"{place}: 'x' is not")


@pytest.mark.parametrize("value", ["/etc/passwd", [{"role": "start", "path": "/etc/passwd"}]])
@pytest.mark.parametrize("field", ["picture", "pictures", "video"])
def test_no_path_is_taken_from_the_fields(served: Served, uploaded: dict[str, Any], field: str, value: Any) -> None:
    assert refusal(served, uploaded, json.dumps({field: value})).startswith("picture: is not named in request_json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '"{}"', "[" * 100_000, "{'seed': 1}", None, 5, {"seed": 1}, ["{}"], True]
)
def test_a_request_that_is_no_json_object_is_refused(served: Served, uploaded: dict[str, Any], text: Any) -> None:
    assert refusal(served, uploaded, text).startswith("request_json: ")


@pytest.mark.parametrize(
    "given",
    [
        None, "", 5, [], {}, "/etc/passwd", {"path": ""}, {"path": None}, {"path": ["/etc/passwd"]},
        {"path": "/etc/passwd"}, {"path": "../../jobs.sqlite3"}, {"path": "a\0b"}, {"path": "x" * 10_000},
        {"url": "/x"},
    ],
)  # fmt: skip
def test_a_picture_that_was_not_uploaded_is_refused(served: Served, given: Any) -> None:
    assert refusal(served, given, "{}").startswith("picture: ")


@pytest.mark.parametrize("path", ["/etc/passwd", "{outputs}/.framepack/jobs.sqlite3", "{uploads}/../jobs.sqlite3"])
def test_a_path_that_claims_to_be_an_upload_is_refused(served: Served, path: str) -> None:
    folder = served.output_dir / ".framepack" / "uploads"
    given = {"path": path.format(outputs=served.output_dir, uploads=folder), "meta": {"_type": "gradio.FileData"}}
    refusal(served, given, "{}")


def test_a_link_among_the_uploads_leads_nowhere(served: Served) -> None:
    link = served.output_dir / ".framepack" / "uploads" / "link.png"
    link.symlink_to("/etc/passwd")
    assert refusal(served, {"path": str(link)}, "{}").startswith("picture: ")


def test_an_upload_that_is_no_picture_is_refused(served: Served, client: Client, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text("{}")
    with pytest.raises(AppError, match="not a known picture format"):
        client.predict(handle_file(str(settings)), "{}", api_name="/submit")


@pytest.mark.parametrize("endpoint", ["status", "cancel", "result"])
@pytest.mark.parametrize("job_id", [None, "1", 1.0, True, [], {}, float("nan"), float("inf"), "1; drop table jobs"])
def test_a_job_id_that_is_no_number_is_refused(served: Served, endpoint: str, job_id: Any) -> None:
    data = (job_id, "now") if endpoint == "cancel" else (job_id,)
    assert refusal(served, *data, endpoint=endpoint).startswith("job_id: ")


@pytest.mark.parametrize("endpoint", ["status", "cancel", "result"])
@pytest.mark.parametrize("job_id", [0, -1, 10_000, 2**63, 10**30])
def test_a_job_that_is_not_there_is_refused(served: Served, endpoint: str, job_id: int) -> None:
    data = (job_id, "now") if endpoint == "cancel" else (job_id,)
    assert "there is no job" in refusal(served, *data, endpoint=endpoint)


@pytest.mark.parametrize("keep", ["", "NOW", "all", None, 1, ["now"], {}])
def test_a_stop_that_keeps_something_else_is_refused(served: Served, keep: Any) -> None:
    assert refusal(served, 1, keep, endpoint="cancel").startswith("keep: ")
