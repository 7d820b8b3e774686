"""The README's example of how a program asks for a video works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.jobs_support import make_picture

from .serving import serving


def test_the_example_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    with serving(tmp_path / "outputs") as place:
        example = example.replace("http://127.0.0.1:7860", place.address)
        example = example.replace("photo.jpg", str(make_picture(tmp_path)))
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102
        (job,) = place.queue.jobs()
    assert (job.state, job.request.prompt, job.request.seconds) == ("done", "the camera pans left", 1)
    said = capsys.readouterr().out.splitlines()
    assert Path(said[-1]).suffix == ".mp4"
    assert Path(said[-1]).read_bytes()[4:8] == b"ftyp"
