"""Which part of the network an operation of a compiled step is counted to."""

import pytest

from benchmarks.step_profile import SUMS, UNNAMED, by_part, part_of

FORWARD, BACKWARD = "jit(train_step)/jvp(UNet)/", "jit(train_step)/transpose(jvp(UNet))/"
ELSE = "else: activations, joins, sums of gradients"
NAMES = [
    ("UNet.block/up_0_1_resnet/conv1/conv_general_dilated", "convolution, forward", "convolution, gradient of the input"),
    (
        "UNet.block/down_0_0_resnet/conv2/cond/branch_0_fun/checkpoint/cond/branch_1_fun/add",
        "convolution, forward",
        "convolution, gradient of the input",
    ),
    ("UNet._upsample/up_1_upsample/conv/by_kernel/cond/branch_0_fun/add", None, "convolution, gradient of the weights"),
    ("conv_out/by_kernel/cond/branch_0_fun/conv_general_dilated", None, "convolution, gradient of the weights"),
    ("down_0_downsample/conv/add_any", ELSE, ELSE),
    ("UNet.block/down_0_0_resnet/conv1/reduce_sum", ELSE, ELSE),
    ("UNet.encode/UNet.block/down_0_0_resnet/norm1/reduce_sum", "normalisation", "normalisation"),
    ("norm_out/add_any", "normalisation", "normalisation"),
    ("UNet._attention/up_1_1_attention/norm/mul", "normalisation", "normalisation"),
    ("UNet._attention/up_1_1_attention/bhqk,bkhd->bqhd/dot_general", "attention", "attention"),
    ("UNet.block/up_0_1_resnet/skip/dot_general", "products with matrices", "products with matrices"),
    ("UNet._embedding/UNet.time_embedding/time_0/dot_general", "products with matrices", "products with matrices"),
    ("UNet.block/up_0_1_resnet/jit(silu)/div", ELSE, ELSE),
]


@pytest.mark.parametrize(("name", "forward", "backward"), NAMES)
def test_an_operation_counts_to_the_part_that_its_name_says(name, forward, backward):
    line = 'f32[4,8,8,64] fusion(%%x, %%y), kind=kLoop, calls=%%fused, metadata={op_name="%s" stack_frame_id=9}'
    if forward is not None:
        assert part_of(line % (FORWARD + name)) == forward
    assert part_of(line % (BACKWARD + name)) == backward


def test_what_is_outside_of_the_network_is_the_optimizer_and_what_has_no_name_a_copy():
    assert part_of('f32[9] fusion(%x), metadata={op_name="jit(train_step)/select_n"}') == "optimizer, average, what is drawn"
    assert part_of("f32[9] copy(%x)") == part_of("") == UNNAMED
    assert part_of('(f32[9], f32[3]) all-reduce(%x, %y), metadata={op_name="reduce_sum)"}') == SUMS


def test_times_of_a_part_add_up():
    text = """
ENTRY %main {
  %mul.1 = f32[4] multiply(%a, %b), metadata={op_name="jit(f)/jvp(UNet)/norm_out/mul"}
  %cond.3 = f32[4] conditional(%a, %b), metadata={op_name="jit(f)/jvp(UNet)/norm_out/cond"}
  ROOT %add.2 = f32[4] add(%a, %mul.1), metadata={op_name="jit(f)/jvp(UNet)/norm_out/add"}
}"""
    assert by_part({"mul.1": 2e6, "add.2": 1e6, "cond.3": 4e6, "gone": 5e5}, text) == {"normalisation": 3.0, UNNAMED: 0.5}
