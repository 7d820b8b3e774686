"""The memory plan: it fits what is there, more memory never makes it slower, and it says what it chose and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_helper.errors import OutOfMemory
from diffusers_helper.memory.candidates import Candidate
from diffusers_helper.memory.costs import STAY_ON_GPU, Constraints, Machine, PartSizes, Precision, Workload
from diffusers_helper.memory.lessons import Lesson
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.memory.units import GB, GIB
from diffusers_helper.models.sizes import FULL_SIZE

from .support import DECODERS, plan_on

USUAL = Workload.of(640, 608)
IN_FLOAT32 = replace(FULL_SIZE, bytes_per_weight=dict.fromkeys(FULL_SIZE.bytes_per_weight, 4), mapped=frozenset())


def machine(
    vram_gib: float, ram_gib: float, vram_share: float = 0.93, ram_share: float = 0.85, disk_gb: float = 100
) -> Machine:
    """A machine as it is sold; a desktop takes its shares."""
    vram, ram = int(vram_gib * GIB), int(ram_gib * GIB)
    return Machine(vram, int(vram * vram_share), ram, int(ram * ram_share), int(disk_gb * GB))


def plan(where: Machine, parts: PartSizes = FULL_SIZE, workload: Workload = USUAL, **constraints: object) -> MemoryPlan:
    return plan_on(where, parts, workload, Constraints(**constraints))  # type: ignore[arg-type]


def or_none(where: Machine, parts: PartSizes, workload: Workload, constraints: Constraints) -> MemoryPlan | None:
    try:
        return plan_on(where, parts, workload, constraints)
    except OutOfMemory:
        return None


def cost(made: MemoryPlan, parts: PartSizes, workload: Workload, constraints: Constraints) -> float:
    """What the plan predicts of its own speed."""
    on_gpu = made.residency["transformer"] != "cpu"
    way = (made.precision, DECODERS[made.decode], made.take_turns, made.resident_blocks)
    return Candidate(parts, workload, constraints, on_gpu, *way).cost()


sizes = st.builds(
    lambda blocks, block, other, scale, mapped: replace(
        FULL_SIZE,
        blocks=blocks,
        block_weights=blocks * block,
        largest_block_weights=2 * block,
        modulation_weights=blocks * block // 3,
        other_weights=other,
        rest={part: int(weights * scale) for part, weights in FULL_SIZE.rest.items()},
        mapped=frozenset(mapped),
    ),
    st.integers(1, 60),
    st.integers(1, 200_000_000),
    st.integers(1, 500_000_000),
    st.floats(0.001, 1),
    st.sets(st.sampled_from(sorted(FULL_SIZE.bytes_per_weight))),
)
workloads = st.builds(
    Workload.of, st.integers(4, 60).map(lambda n: 16 * n), st.integers(4, 60).map(lambda n: 16 * n), st.integers(1, 12)
)
constraints = st.builds(
    Constraints,
    precision=st.sampled_from(["auto", "as_is", "int8", "fp8", "bnb8", "bnb4"]),
    modulation_table=st.booleans(),
    swap=st.booleans(),
    bnb_cpu_offload=st.booleans(),
    small_host_copy=st.booleans(),
    decode=st.sampled_from(["auto", "auto", *DECODERS]),
    preserved_bytes=st.integers(6, 128).map(lambda n: n * GB),
)
share = st.floats(0.5, 1)
vrams = st.sampled_from([0, 4, 6, 8, 12, 16, 24, 48, 80])
lessons = st.builds(
    Lesson,
    st.integers(2, 80).map(lambda n: n * GB),
    st.integers(0, 20).map(lambda n: n * GB),
    st.integers(0, 20).map(lambda n: n * GB),
)
machines = st.builds(
    lambda sold, grow, fused, learnt: replace(
        sold, segments_grow=grow, fused_vae_attention=fused, lessons=tuple(learnt) if sold.vram_total else ()
    ),
    st.builds(machine, vrams, st.floats(4, 160), share, share, st.floats(0, 100)),
    st.booleans(),
    st.booleans(),
    st.lists(lessons, max_size=2),
)


@settings(max_examples=250)
@given(machines, sizes, workloads, constraints)
def test_it_never_exceeds_what_is_there(
    where: Machine, parts: PartSizes, workload: Workload, wish: Constraints
) -> None:
    made = or_none(where, parts, workload, wish)
    if made is None:
        return
    assert made.peak_vram_bytes <= where.vram_free
    assert made.peak_ram_bytes <= where.ram_free
    assert 0 <= made.resident_blocks <= parts.blocks
    assert wish.precision in ("auto", made.precision) or "are used instead" in str(made.notices[0])
    assert set(made.residency) == {"transformer", *parts.rest}
    assert (made.residency["transformer"] == "cpu") == (where.vram_total == 0)
    if made.precision in STAY_ON_GPU and where.vram_total:
        assert made.resident_blocks == parts.blocks
    if wish.small_host_copy and made.take_turns and made.precision not in STAY_ON_GPU:
        assert made.resident_blocks == 0, "there would be no copy to come back from"


@settings(max_examples=250)
@given(machines, sizes, workloads, constraints, st.integers(0, 40 * GB), st.integers(0, 80 * GB))
def test_more_memory_never_makes_it_slower(
    where: Machine, parts: PartSizes, workload: Workload, wish: Constraints, more_vram: int, more_ram: int
) -> None:
    more_vram = more_vram if where.vram_total else 0
    larger = replace(
        where,
        vram_total=where.vram_total + more_vram,
        vram_free=where.vram_free + more_vram,
        ram_total=where.ram_total + more_ram,
        ram_free=where.ram_free + more_ram,
    )
    before = or_none(where, parts, workload, wish)
    if before is None:
        return
    after = plan_on(larger, parts, workload, wish)
    if before.precision != after.precision == wish.precision:
        return  # what was asked for by name fits now, and is had also where its substitute were faster
    assert cost(after, parts, workload, wish) <= cost(before, parts, workload, wish)


@pytest.mark.parametrize(
    ("vram", "ram", "precision", "transformer"),
    [
        (6, 32, "int8", "swapped"),
        (8, 64, "int8", "swapped"),
        (12, 32, "int8", "swapped"),
        (16, 64, "int8", "swapped"),
        (24, 32, "int8", "gpu"),
        (24, 64, "as_is", "swapped"),
        (48, 64, "as_is", "gpu"),
        (80, 32, "as_is", "gpu"),
    ],
)
def test_the_13b_model_on_the_cards_people_have(vram: int, ram: int, precision: str, transformer: str) -> None:
    made = plan(machine(vram, ram))
    assert (made.precision, made.residency["transformer"]) == (precision, transformer)


def test_larger_cards_keep_more_blocks() -> None:
    resident = [plan(machine(vram, 32)).resident_blocks for vram in (6, 12, 24)]
    assert resident == sorted(resident)
    assert resident[0] < resident[1] < resident[2]


def test_without_a_gpu_everything_computes_on_the_cpu() -> None:
    made = plan(machine(0, 160), IN_FLOAT32)
    assert set(made.residency.values()) == {"cpu"}
    assert (made.precision, made.peak_vram_bytes) == ("as_is", 0)


@pytest.mark.parametrize("vram", [6, 8, 12, 16, 24])
def test_a_32_gb_machine_that_is_half_used_reads_the_text_encoder_from_its_file(vram: int) -> None:
    made = plan(machine(vram, 32, ram_share=0.5))
    assert made.peak_ram_bytes < 14 * GB
    assert "RAM is short: up to 15.0 GB of encoders are read from disk" in str(made.why)
    assert "RAM is short" not in str(plan(machine(vram, 64)).why)


def test_what_must_be_converted_cannot_stay_in_its_file() -> None:
    converted = replace(FULL_SIZE, mapped=frozenset())
    with pytest.raises(OutOfMemory, match=r"at least 27\.\d GB of RAM \(17\.2 GB are free\)"):
        plan(machine(12, 32, ram_share=0.5), converted)


def test_too_little_ram_is_refused_before_loading() -> None:
    with pytest.raises(OutOfMemory, match=r"at least 12\.\d GB of RAM \(8\.6 GB are free\)"):
        plan(machine(12, 16, ram_share=0.5))


def test_a_disk_without_room_for_the_quantised_weights_is_told() -> None:
    (notice,) = plan(machine(12, 32, disk_gb=5)).notices
    assert "int8 weights cannot be kept for the next start: that takes 9.9 GB" in str(notice)
    assert plan(machine(12, 32, disk_gb=10)).notices == ()
    assert plan(machine(80, 128, disk_gb=0)).notices == (), "weights as they are keep nothing"


def test_a_refusal_names_what_would_fit() -> None:
    small_card = machine(4, 64)
    with pytest.raises(OutOfMemory, match=r"GPU memory.* A latent window of 3 would fit"):
        plan(small_card)
    with pytest.raises(OutOfMemory, match="quantisation that is chosen by default would fit"):
        plan(machine(12, 20), precision="as_is")


def test_weights_that_are_read_whole_need_ram_for_all_of_them_on_their_way() -> None:
    converted = plan(machine(80, 40), replace(FULL_SIZE, mapped=frozenset({"text_encoder"})))
    assert converted.residency["transformer"] == "gpu"
    assert converted.peak_ram_bytes > 25.7 * GB, "the modulation is read too, and the other parts come after"
    assert plan(machine(80, 40)).peak_ram_bytes < 3 * GB, "what is mapped goes from its file to the GPU"


def test_more_preserved_memory_keeps_fewer_blocks_on_the_gpu() -> None:
    counts = [
        plan(machine(16, 64), preserved_bytes=gb * GB, decode="tiles_1").resident_blocks for gb in (6, 8, 12, 128)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[3] == 0


def test_without_a_gpu_ram_decides_how_clips_are_decoded() -> None:
    made = (or_none(machine(0, ram), IN_FLOAT32, USUAL, Constraints()) for ram in range(40, 180, 4))
    found = list(dict.fromkeys(each.decode for each in made if each))
    assert len(found) > 1
    assert found == [name for name in reversed(DECODERS) if name in found], "the more there is, the more at once"


def test_the_modulation_table_saves_a_quarter() -> None:
    large = machine(80, 128)
    with_table, without = (plan(large, modulation_table=table) for table in (True, False))
    saved = without.peak_vram_bytes - with_table.peak_vram_bytes
    assert saved == pytest.approx(2 * FULL_SIZE.modulation_weights, rel=0.06)


def test_4_bit_weights_stay_on_the_gpu_or_take_turns() -> None:
    assert plan(machine(12, 32), precision="bnb4").residency["transformer"] == "gpu"
    offloaded = plan(machine(16, 32), precision="bnb4", bnb_cpu_offload=True, decode="chunks_4")
    assert (offloaded.residency["transformer"], offloaded.take_turns) == ("swapped", True)


@pytest.mark.parametrize("precision", ["bnb8", "bnb4"])
def test_packed_weights_that_do_not_fit_become_int8_that_is_swapped(precision: str) -> None:
    made = plan(machine(6, 32), precision=precision, bnb_cpu_offload=True)
    assert (made.precision, made.residency["transformer"]) == ("int8", "swapped")
    assert "cannot be swapped, and the GPU cannot hold them all: int8 weights are used instead" in str(made.notices[0])
    assert plan(machine(16, 32), precision=precision).precision == precision


def test_attention_that_holds_its_scores_needs_a_large_card() -> None:
    unfused = replace(machine(11, 64), fused_attention=False)
    with pytest.raises(OutOfMemory, match=r"at least \d\d\.\d GB of GPU memory"):
        plan(unfused)
    assert plan(replace(machine(80, 64), fused_attention=False)).peak_vram_bytes > plan(machine(80, 64)).peak_vram_bytes


def test_the_vaes_attention_that_holds_its_scores_is_decoded_in_tiles() -> None:
    held = replace(machine(10, 64), fused_vae_attention=False)
    assert plan(machine(10, 64)).decode.startswith("chunks")
    assert plan(held).decode.startswith("tiles")


def test_segments_that_cannot_grow_need_more() -> None:
    ordinary = replace(machine(12, 64), segments_grow=False)
    assert plan(ordinary, preserved_bytes=0).resident_blocks < plan(machine(12, 64), preserved_bytes=0).resident_blocks


@pytest.mark.parametrize("ram", [32, 64])
def test_a_card_of_16_gb_keeps_blocks_rather_than_decode_whole_frames(ram: int) -> None:
    """Also where small frames could be decoded whole, if all blocks went for it."""
    for workload in (USUAL, Workload.of(448, 448)):
        assert plan(machine(16, ram), workload=workload, small_host_copy=ram == 32).resident_blocks > 35


def test_making_int8_weights_takes_their_ram_also_where_they_leave_it() -> None:
    made = plan(machine(48, 32), precision="int8")
    assert made.residency["transformer"] == "gpu"
    assert made.peak_ram_bytes > 9.9 * GB


def test_a_small_host_copy_takes_less_ram() -> None:
    usual, small = (plan(machine(12, 64), small_host_copy=wish) for wish in (False, True))
    assert small.peak_ram_bytes < usual.peak_ram_bytes


def test_it_explains_itself() -> None:
    made = plan(machine(12, 32))
    assert str(made.why).startswith("int8 weights, ")
    assert f"{made.resident_blocks} of 60 blocks on the GPU" in str(made.why)
    assert "GB free VRAM" in str(made.why)
    assert "GB free RAM" in str(made.why)
    assert "all on the CPU" in str(plan(machine(0, 160), IN_FLOAT32).why)


def test_what_could_not_be_had_is_said() -> None:
    assert plan(machine(12, 64)).notices == ()
    assert "there is no GPU" in str(plan(machine(0, 160), IN_FLOAT32, preserved_bytes=8 * GB).notices[0])
    assert "128 GB of preserved GPU memory" in str(plan(machine(12, 64), preserved_bytes=128 * GB).notices[0])
    assert "cannot leave" in str(plan(machine(12, 64), precision="bnb4", preserved_bytes=11 * GB).notices[0])


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("precision", ["as_is", "int8", "bnb4"])
def test_loras_are_on_the_gpu_while_anything_of_the_video_is_made(precision: Precision, turns: bool) -> None:
    """Beside the weights while it samples, and left there while it decodes."""
    resident = FULL_SIZE.blocks if precision == "bnb4" else 10
    needed = [
        Candidate(
            FULL_SIZE,
            replace(USUAL, lora_bytes=size),
            Constraints(),
            True,
            precision,
            next(iter(DECODERS.values())),
            turns,
            resident,
        ).vram()
        for size in (0, GB)
    ]
    assert needed[1] - needed[0] == GB


def test_a_refusal_says_where_it_would_fit_without_loras() -> None:
    with pytest.raises(OutOfMemory, match="would fit without LoRAs"):
        plan(machine(6, 64), workload=replace(USUAL, lora_bytes=40 * GB))
