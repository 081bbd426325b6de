"""Reading what callgrind dumps."""

from bench.instructions import self_costs

DUMP = """\
# callgrind format
positions: line
events: Ir
summary: 1234

ob=(1) /usr/lib/libpython3.11.so.1.0
fl=(4) ???
fn=(7) eval
0 64
+3 6
cob=(2) /usr/lib/libc.so.6
cfi=(6) string.c
cfn=(8) memcpy
calls=64 77
0 4160
* 1

ob=(2)
fn=(8)
0 4160

ob=(1)
fn=(7)
0 30
"""


def test_the_cost_of_a_function_leaves_out_those_that_it_calls() -> None:
    assert self_costs(DUMP.splitlines()) == {
        "libpython3.11.so.1.0: eval": 64 + 6 + 1 + 30,
        "libc.so.6: memcpy": 4160,
    }
