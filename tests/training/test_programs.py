"""What a compiled program says of itself is what was put into it."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_ddpm.training.chips import Chip
from jax_ddpm.training.programs import Collective, Program, by_kind, estimate, find_collectives, read_program
from jax_ddpm.training.sharding import DATA_AXIS, FSDP_AXIS, abstract, make_mesh, replicated, split_batch

ROWS, WIDE = 16, 64


def compiled(fsdp=1, parts=1):
    """One step of a linear map of WIDE numbers to as many, whose parameters are whole on each device or split."""
    mesh = make_mesh(fsdp=fsdp)
    split = NamedSharding(mesh, PartitionSpec(FSDP_AXIS if fsdp > 1 else None))

    def mean(weights, batch):
        whole = jax.lax.with_sharding_constraint(weights, replicated(mesh))
        return jnp.mean((batch @ whole) ** 2)

    def step(weights, batch):
        def one(weights, part):
            return weights - jax.grad(mean)(weights, part), None

        split_up = batch.reshape(-1, parts, WIDE).swapaxes(0, 1)
        return jax.lax.scan(one, weights, split_up)[0] if parts > 1 else one(weights, batch)[0]

    weights = abstract(jax.ShapeDtypeStruct((WIDE, WIDE), jnp.float32), split)
    batch = abstract(jax.ShapeDtypeStruct((ROWS * parts, WIDE), jnp.float32), split_batch(mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=split).lower(weights, batch).compile()


def test_one_sum_of_the_gradient_where_each_device_has_all_parameters():
    program = read_program(compiled())
    assert by_kind(program.collectives) == {"all-reduce": (1, 4 * WIDE**2)}
    assert program.collectives[0].devices == 4
    assert program.arguments == 4 * (WIDE**2 + ROWS * WIDE // 4)
    # Two products of [rows, wide] and [wide, wide], one forward and one backward, two operations a multiply-add; the rest is of
    # the size of what goes in.
    products = 2 * 2 * (ROWS // 4) * WIDE**2
    assert products < program.flops < 1.2 * products
    assert program.arguments <= program.peak <= program.arguments + program.temporaries + 4096
    assert program.bytes > program.arguments


def test_parameters_are_gathered_where_they_are_split():
    program = read_program(compiled(fsdp=4))
    counts = by_kind(program.collectives)
    assert counts["all-gather"] == (1, 4 * WIDE**2)
    assert program.arguments == 4 * (WIDE**2 + ROWS * WIDE) // 4


def test_what_stands_in_a_loop_counts_as_often_as_it_goes_round():
    once, often = read_program(compiled()), read_program(compiled(parts=5), repeats=5)
    assert by_kind(often.collectives) == {"all-reduce": (5, 5 * 4 * WIDE**2)}
    assert often.flops == pytest.approx(5 * once.flops, rel=0.01)


MADE_UP = """HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%body.1 (state: (s32[], f32[128,8])) -> (s32[], f32[128,8]) {
  %gathered = bf16[128,8]{1,0:T(8,128)(2,1)} all-gather(%part), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %out = (s32[], f32[128,8]{1,0:T(8,128)}) tuple(%count, %new)
}

%fused_computation.1 (p.1: bf16[8,32]) -> (bf16[8,32], bf16[32,32], u32[]) {
  %all-gather.1 = bf16[32,32]{1,0} all-gather(%p.1), replica_groups=mesh['x'=1,'y'=4,'z'=2], device_ids=([2,4]T(1,0)) {'y'}
  ROOT %begun = (bf16[8,32]{1,0}, bf16[32,32]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p.2: bf16[8,32]) -> (f32[8,64], bf16[32,32]) {
  %all-gather.2 = bf16[32,32]{1,0:T(8,128)(2,1)} all-gather(%p.2), dimensions={0}
  ROOT %beside = (f32[8,64]{1,0}, bf16[32,32]{1,0}) tuple(%product, %all-gather.2)
}

%fused_computation.3 (p.3: bf16[8,32]) -> bf16[32,32] {
  %all-gather.3 = bf16[32,32]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.3), dimensions={0}
  ROOT %ended = bf16[32,32]{1,0} custom-call(%p.3, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main.9_spmd (p: f32[8]) -> f32[8] {
  %loop = (s32[], f32[128,8]{1,0}) while(%init), condition=%cond, body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  %all-reduce = (f32[9,128]{1,0:T(8,128)S(1)}, f32[]{:T(128)}) all-reduce(%a, %b), replica_groups={{0,1,2,3}}, to_apply=%add
  %all-reduce-start.1 = f32[512]{0:T(512)} all-reduce-start(%c), replica_groups=[1,8]<=[8], to_apply=%add
  %all-reduce-done.1 = f32[512]{0:T(512)} all-reduce-done(%all-reduce-start.1)
  %all-gather-start = (f32[16,8]{1,0:T(8,128)}, f32[128,8]{1,0:T(8,128)}) all-gather-start(%d), replica_groups=[1,8]<=[8]
  %along = f32[2]{0} all-reduce(%h), replica_groups=mesh['x'=4,'y'=2,'z'=8] {'y','z':(2)4}, use_global_device_ids=true
  %async-collective-start = (bf16[8,32]{1,0}, bf16[32,32]{1,0}) fusion(%i), kind=kCustom, calls=%fused_computation.1
  %fusion.2 = (f32[8,64]{1,0}, bf16[32,32]{1,0}) fusion(%j), kind=kOutput, calls=%async_collective_fusion.2
  %async-collective-done = bf16[32,32]{1,0} fusion(%fusion.2), kind=kCustom, calls=%fused_computation.3
  %all-gather-done = f32[128,8]{1,0:T(8,128)} all-gather-done(%all-gather-start)
  %scattered = f32[16,8]{1,0:T(8,128)} reduce-scatter(%e), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %rs = ((f32[128,8]{1,0}), f32[16,8]{1,0}, u32[]{:S(2)}) reduce-scatter-start(%f), replica_groups=[1,8]<=[8], to_apply=%add
  %sent = (f32[4]{0}, f32[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%g), source_target_pairs={{0,1},{1,0}}
  ROOT %last = f32[8]{0} fusion(%all-reduce-done.1, %all-gather-done), kind=kLoop, calls=%fused
}
"""


def test_the_lines_of_a_tpus_program():
    assert find_collectives(MADE_UP) == (
        Collective("all-gather", 2 * 128 * 8, devices=4, times=3),
        Collective("all-gather", 2 * 32 * 32, devices=4),
        Collective("all-reduce", 4 * (9 * 128 + 1), devices=4),
        Collective("all-reduce", 4 * 512, devices=8),
        Collective("all-gather", 4 * 128 * 8, devices=8),
        Collective("all-reduce", 4 * 2, devices=8),
        Collective("reduce-scatter", 4 * 16 * 8 * 2, devices=2),
        Collective("reduce-scatter", 4 * 128 * 8, devices=8),
        Collective("collective-permute", 4 * 4),
    )


def test_a_loop_that_does_not_say_how_often_it_goes_round():
    text = MADE_UP.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    assert [find_collectives(text, repeats)[0].times for repeats in (1, 4)] == [1, 4]
    assert find_collectives(text, 4)[1:] == find_collectives(MADE_UP)[1:]


IN_A_BRANCH = """HloModule jit_step

%rare (p: f32[8]) -> f32[8] {
  ROOT %sum = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%body (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %chosen = f32[8]{0} conditional(%which, %x, %x, %x), branch_computations={%often, %sometimes, %rare}
}

ENTRY %main (p.2: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]{0}) while(%begin), condition=%until, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_a_branch_in_a_loop_is_counted_as_often_as_the_loop_goes_round():
    assert find_collectives(IN_A_BRANCH) == (Collective("all-reduce", 4 * 8, devices=2, times=3),)


def test_a_program_of_one_device_asks_for_nothing():
    text = jax.jit(lambda x: x @ x).lower(jnp.ones((8, 8))).compile().as_text()
    assert find_collectives(text) == ()


CHIP = Chip("made up", bfloat16=100.0, float32=50.0, memory=1e3, memory_bandwidth=20.0, link_bandwidth=4.0)


def test_the_estimate_is_what_the_peaks_allow():
    asked = (Collective("all-reduce", 8, devices=2), Collective("all-gather", 16, times=2))
    program = partial(Program, arguments=0, temporaries=0, peak=0, flops=1000.0, collectives=asked)
    least = estimate(program(bytes=100.0), CHIP, "float32", devices=4)
    assert least == (20.0, 5.0, (2 * 8 / 2 + 16 * 2 * 3 / 4) / 4)
    assert least.seconds == 20 + 8
    assert estimate(program(bytes=600.0), CHIP, "bfloat16", devices=4).seconds == 30 + 8


def test_the_batch_is_split_along_both_axes_here():
    assert split_batch(make_mesh(fsdp=2)).spec == PartitionSpec((DATA_AXIS, FSDP_AXIS))
