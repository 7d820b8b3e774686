"""RAM: a container has no more than its limit, and files in the cache count as free."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from diffusers_helper.memory.host import Ram, read_ram


def test_a_container_has_no_more_than_its_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "memory.current").write_text("1800000000\n")
    (tmp_path / "memory.stat").write_text("anon 7\nactive_file 100000000\ninactive_file 200000000\n")
    assert read_ram(tmp_path) == Ram(total=2 * 10**9, free=5 * 10**8)


@pytest.mark.parametrize("limit", ["max\n", None])
def test_without_a_limit_it_is_the_machines(limit: str | None, tmp_path: Path) -> None:
    if limit:
        (tmp_path / "memory.max").write_text(limit)
    assert read_ram(tmp_path).total == psutil.virtual_memory().total
    assert read_ram(tmp_path).free <= psutil.virtual_memory().total
