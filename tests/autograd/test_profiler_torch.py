"""The same programs under torch's profiler and ours: names, counts, shapes, trees, sequence numbers, bytes, tables."""

from __future__ import annotations

import collections
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
import torch.autograd.profiler as torch_profiler  # noqa: E402
from torch_cases import CASES, Case, draw, flat_outputs, forms, prepare  # noqa: E402

import tracegrad.autograd.profiler as our_profiler  # noqa: E402
import tracegrad.profiler  # noqa: E402

pytestmark = pytest.mark.peers

# Names under which torch has an operation of its own, where ours is the same function.
ALIASES = {
    "absolute": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin", "arcsinh": "asinh", "arctan": "atan",
    "arctan2": "atan2", "arctanh": "atanh", "clip": "clamp", "concat": "cat", "concatenate": "cat", "divide": "div",
    "ger": "outer", "greater": "gt", "greater_equal": "ge", "hstack": "cat", "inner": "matmul", "less": "lt",
    "less_equal": "le", "multiply": "mul", "negative": "neg", "not_equal": "ne", "rsub": "sub", "square": "pow",
    "subtract": "sub", "take_along_dim": "gather", "tile": "repeat", "true_divide": "div", "vstack": "cat",
    "mv": "matmul", "dot": "matmul", "split_with_sizes": "split", "nonzero_numpy": "nonzero",
    "fix": "trunc", "trapz": "trapezoid", "row_stack": "cat",
    "gammaln": "lgamma", "psi": "digamma", "multigammaln": "mvlgamma", "expit": "sigmoid",
}  # fmt: skip
# Of views, and of what only copies, a profile shows our ops.
OWN_OPS = {"aten::view", "aten::permute", "aten::slice", "aten::expand", "aten::clone"}
VIEWS = set(
    "reshape view_as reshape_as flatten ravel unflatten transpose swapaxes swapdims movedim moveaxis t unsqueeze "
    "squeeze broadcast_to expand_as narrow".split()
)
COPIES = {"floor", "ceil", "trunc", "round", "fix"}  # of integers
# With these keywords an operation is a few of ours, which it does not enclose.
KEYWORDS = {"alpha", "rounding_mode", "decimals"}


def canonical(name: str) -> str:
    plain = name.removeprefix("aten::").removeprefix("special_")
    return "aten::" + ALIASES.get(plain, plain)


def profiled(module: Any, run: Callable[[], Any], **options: Any) -> Any:
    with module.autograd.profiler.profile(**options) as prof:
        run()
    return prof


def tops(prof: Any) -> list[str]:
    return [e.name for e in prof.function_events if e.cpu_parent is None]


# Functions that are Python in torch as well, but of other operations: what both have.
IN_PYTHON = {
    "nn.functional.gaussian_nll_loss": {"aten::clone", "aten::log", "aten::div"},
    "nn.functional.local_response_norm": {"aten::mul", "aten::pow", "aten::div"},
}


@pytest.mark.parametrize("c", CASES, ids=str)
def test_names_of_operations(c: Case) -> None:
    """Each public function is one event of torch's name, if it is one to torch; what it is made of is inside."""
    arrays = draw(c, "float32")
    _, run = forms(c)[0]
    ours, theirs = (prepare(module, c, arrays, True) for module in (tg, torch))
    mine = [name for name in tops(profiled(tg, lambda: run(tg, ours))) if name != "aten::_to_copy"]
    wanted = tops(profiled(torch, lambda: run(torch, theirs)))
    if c.name in VIEWS or (c.name in COPIES and arrays[0].dtype.kind == "i"):
        assert set(mine) <= OWN_OPS
        return
    if c.name in ("matmul", "inner", "vstack", "row_stack"):
        mine = [name for name in mine if name not in OWN_OPS]
    names = [canonical(name) for name in mine]
    if c.name in IN_PYTHON:
        assert IN_PYTHON[c.name] <= set(names)
    elif KEYWORDS & c.kwargs.keys():
        assert names
        assert len(names) <= 3
    else:
        assert names == [canonical(name) for name in wanted]


@pytest.mark.parametrize("c", CASES, ids=str)
def test_profiling_changes_no_result(c: Case) -> None:
    """Bit for bit: also gradients, whose rules run on Tensors while a profile is on."""
    arrays = draw(c, "float64")
    outcomes = []
    for options in (None, {}, {"record_shapes": True, "profile_memory": True, "with_stack": True}):
        call = prepare(tg, c, arrays, True)
        _, run = forms(c)[0]
        with our_profiler.profile(enabled=options is not None, **(options or {})):
            tg.manual_seed(0)
            outs = flat_outputs(tg, run(tg, call))
            roots = [out for out in outs if out.requires_grad]
            if roots:
                tg.autograd.backward(roots, [tg.ones_like(root) * 0.7 for root in roots])
        grads = [x.grad for x in call.leaves]
        outcomes.append(
            [
                None if t is None else (t.shape, t.detach().numpy().tobytes())
                for t in (*outs, *grads)
            ]
        )
    assert outcomes[0] == outcomes[1] == outcomes[2]


# Programs whose operations are torch's, one for one. Each is a function of the library.


def elementwise(lib: Any) -> None:
    a = lib.ones(3, requires_grad=True)
    b = lib.ones(2, 3)
    for _ in range(3):
        (a.sin() * b + 2).exp().sum().backward()


def branches(lib: Any) -> None:
    x = lib.ones(2, 2, requires_grad=True)
    y = lib.ones(2, 2, requires_grad=True)
    with lib.autograd.profiler.record_function("forward"):
        z = x * y
        with lib.autograd.profiler.record_function("inner"):
            w = z.exp() / y
    with lib.no_grad():
        x.detach().cos()
    lib.autograd.grad((w - z).tanh().sum(), [x, y])


def regions(lib: Any) -> None:
    record = lib.autograd.profiler.record_function

    @record("decorated")
    def work(x: Any) -> Any:
        return x.sqrt()

    x = lib.ones(4, requires_grad=True)
    with record("outer", args="some text"):
        work(x)
        work(work(x)).sum().backward()


def own_function(lib: Any) -> None:
    class Cube(lib.autograd.Function):  # type: ignore[misc,name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient * ctx.saved_tensors[0]

    x = lib.ones(3, requires_grad=True)
    Cube.apply(Cube.apply(x)).sum().backward()


PROGRAMS = [elementwise, branches, regions, own_function]

# What torch does inside of an operation, where ours is one call of NumPy; what it has on the way to a
# gradient; and how it fills arrays.
_WITHIN_TORCH = set(
    "as_strided fill_ empty empty_like empty_strided to _to_copy copy_ detach clamp_min resize_ threshold_backward "
    "tanh_backward expand".split()
)


def visible(event: Any) -> bool:
    name = event.key
    return (
        name != "[memory]" and name != "detach" and name.removeprefix("aten::") not in _WITHIN_TORCH
    )


def tree(events: Any) -> list[Any]:
    """(name, tree of the children) of each event, in order."""
    return [(e.name, tree(e.cpu_children)) for e in events if visible(e)]


def is_accumulation(event: Any) -> bool:
    return "AccumulateGrad" in event.name


def forward_part(prof: Any) -> list[Any]:
    roots = [e for e in prof.function_events if e.cpu_parent is None]
    return [e for e in roots if visible(e) and not e.name.startswith("autograd::engine")]


def backward_part(prof: Any) -> list[Any]:
    roots = [e for e in prof.function_events if e.name.startswith("autograd::engine")]
    return [e for e in roots if not is_accumulation(e)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_trees(program: Callable[[Any], None]) -> None:
    ours, theirs = (profiled(lib, lambda lib=lib: program(lib)) for lib in (tg, torch))
    assert tree(forward_part(ours)) == tree(forward_part(theirs))
    mine, peers = backward_part(ours), backward_part(theirs)
    assert [e.name for e in mine] == [e.name for e in peers]
    for a, b in zip(mine, peers, strict=True):
        assert a.cpu_children[0].name == b.cpu_children[0].name == a.name.rpartition(" ")[2]


@pytest.mark.parametrize("program", PROGRAMS)
def test_counts(program: Callable[[Any], None]) -> None:
    """Also of the gradients that are accumulated, which torch does in between."""
    ours, theirs = (
        {
            (row.key, row.is_user_annotation): row.count
            for row in profiled(lib, lambda lib=lib: program(lib)).key_averages()
            if visible(row)
        }
        for lib in (tg, torch)
    )
    names = {name for name, _ in ours}
    derivatives = {"aten::mul", "aten::add_", "aten::neg", "aten::div", "aten::sum", "aten::sub"}
    derivatives |= {
        "aten::view",
        "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad",
    }
    for key, count in theirs.items():
        # Derivative rules compute the same with other operations here and there.
        if key[0] not in derivatives:
            assert ours.get(key) == count, key
    assert names - derivatives <= {name for name, _ in theirs} | {"aten::cos", "aten::pow"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_shapes_of_forward_operations(program: Callable[[Any], None]) -> None:
    """Of tensors with dimensions; torch has an empty entry for any other argument of the schema."""
    found = []
    for lib in (tg, torch):
        prof = profiled(lib, lambda lib=lib: program(lib), record_shapes=True)
        found.append([(e.name, [s for s in e.input_shapes if s]) for e in forward_part(prof)])
    assert found[0] == found[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_sequence_numbers(program: Callable[[Any], None]) -> None:
    """Counted from the first record: those of the records, and which forward operation each belongs to."""
    found = []
    for lib in (tg, torch):
        events = profiled(lib, lambda lib=lib: program(lib)).function_events
        backward = [
            e for e in events if e.name.startswith("autograd::engine") and e.sequence_nr >= 0
        ]
        first = min(e.sequence_nr for e in backward)
        forward = {
            e.sequence_nr: e.name for e in events if e.scope == 0 and e.sequence_nr >= 0 and not e.fwd_thread
            and not e.name.startswith("autograd::engine")
        }  # fmt: skip
        found.append(
            [
                (e.name, e.sequence_nr - first, forward[e.sequence_nr], e.fwd_thread)
                for e in backward
            ]
        )
        for event in backward:
            assert event.cpu_children[0].sequence_nr == event.sequence_nr
            assert (event.scope, event.cpu_children[0].scope) == (0, 1)
    assert found[0] == found[1]


@pytest.mark.parametrize("op", ["sin", "exp", "neg", "sqrt", "abs", "sum", "clone"])
@pytest.mark.parametrize("shape", [(3,), (100, 7), ()])
def test_bytes_of_operations(op: str, shape: tuple[int, ...]) -> None:
    found = []
    for lib in (tg, torch):
        x = lib.ones(shape)

        def run(x: Any = x) -> None:
            getattr(x, op)()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prof = profiled(lib, run, profile_memory=True)
        # The result is dropped at once: that is an event of its own.
        found.append(
            [(e.name, e.cpu_memory_usage) for e in prof.function_events if e.cpu_parent is None]
        )
    assert found[0] == found[1]


def test_bytes_of_a_program() -> None:
    """Allocated by one operation and freed within another region: the same books as torch keeps."""
    found = []
    for lib in (tg, torch):

        def run(lib: Any = lib) -> None:
            with lib.autograd.profiler.record_function("both"):
                x = lib.ones(8, 8)
                y = x.exp()
            with lib.autograd.profiler.record_function("freed"):
                del x
            with lib.autograd.profiler.record_function("nothing"):
                y.t()

        prof = profiled(lib, run, profile_memory=True)
        rows = {e.key: (e.cpu_memory_usage, e.self_cpu_memory_usage) for e in prof.key_averages()}
        found.append({key: rows[key] for key in ("both", "freed", "nothing", "aten::exp")})
    assert found[0] == found[1]


def test_attributes_of_events() -> None:
    """Ours have all of torch's but the raw parts, with the same values where there is no time in them."""
    raw = {
        "append_cpu_child", "append_kernel", "set_cpu_parent", "metadata_json", "python_id", "python_module_id",
        "python_parent_id", "self_cpu_percent", "total_cpu_percent", "total_device_percent",
        "structured_input_strides", "input_dtypes",
    }  # fmt: skip
    equal = (
        "name trace_name count overload_name node_id is_async is_remote is_legacy scope use_device fwd_thread "
        "is_user_annotation is_python_function activity_type flow_start kwinputs flops input_shapes key "
        "device_time_total self_device_time_total device_memory_usage thread"
    ).split()

    def run(lib: Any) -> None:
        with lib.autograd.profiler.record_function("region"):
            lib.eye(2).exp()

    ours, theirs = (
        next(
            e for e in profiled(lib, lambda lib=lib: run(lib)).function_events if e.name == "region"
        )
        for lib in (tg, torch)
    )
    public = {name for name in dir(theirs) if not name.startswith("_")} - raw
    assert public <= set(dir(ours))
    for name in equal:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.device_type.name == theirs.device_type.name
    averages = [profiled(lib, lambda lib=lib: run(lib)).key_averages()[0] for lib in (tg, torch)]
    public = {name for name in dir(averages[1]) if not name.startswith("_")} - raw
    assert public <= set(dir(averages[0]))


@pytest.mark.parametrize(
    "name", ["cuda_time", "cuda_time_total", "self_cuda_time_total", "self_cuda_memory_usage"]
)
def test_deprecated_attributes(name: str) -> None:
    told = []
    for lib in (tg, torch):
        event = profiled(lib, lambda lib=lib: lib.ones(1)).function_events[0]
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            value = getattr(event, name)
        told.append((value, [(w.category, str(w.message)) for w in seen]))
    assert told[0] == told[1]


def columns(table: str) -> list[str]:
    return re.split(r"\s{2,}", table.splitlines()[1].strip())


@pytest.mark.parametrize("options", [{}, {"record_shapes": True}, {"profile_memory": True}])
@pytest.mark.parametrize("sort_by", ["self_cpu_time_total", "count", "cuda_time_total", None])
def test_tables(options: dict[str, bool], sort_by: str | None) -> None:
    """Printed of real programs: the same columns, widths, lines around the rows, and cells but times."""

    tables = []
    for lib in (tg, torch):
        x = lib.ones(20, 30)

        def run(x: Any = x) -> None:
            for _ in range(3):
                (x * x).exp()

        prof = profiled(lib, run, **options)
        by_shape = bool(options.get("record_shapes"))
        rows = [e for e in prof.key_averages(group_by_input_shape=by_shape) if visible(e)]
        events = lib.autograd.profiler.EventList(rows, profile_memory="profile_memory" in options)
        tables.append(events.table(sort_by=sort_by, header="A header", row_limit=10))
    mine, theirs = (table.splitlines() for table in tables)
    assert len(mine) == len(theirs)
    assert columns("\n".join(mine[1:])) == columns("\n".join(theirs[1:]))
    plain = [re.sub(r"\[\[[^\]]*\].*", "", line).rstrip() for line in mine]
    other = [re.sub(r"\[\[[^\]]*\].*", "", line).rstrip() for line in theirs]
    order = sorted if sort_by != "count" else list
    cells = [
        [re.sub(r"[\d.]+(%|us|ms|s)", "#", " ".join(line.split())) for line in lines]
        for lines in (plain, other)
    ]
    assert order(cells[0]) == order(cells[1])
    assert [len(line) for line in mine[:3]] == [len(line) for line in theirs[:3]] or by_shape


PUBLIC = [
    (our_profiler.profile, torch_profiler.profile),
    (our_profiler.record_function, torch_profiler.record_function),
    (our_profiler.EventList.table, torch_profiler.EventList.table),
    (our_profiler.EventList.key_averages, torch_profiler.EventList.key_averages),
    (our_profiler.EventList.export_stacks, torch_profiler.EventList.export_stacks),
    (our_profiler.profile.table, torch_profiler.profile.table),
    (our_profiler.profile.key_averages, torch_profiler.profile.key_averages),
    (our_profiler.profile.export_stacks, torch_profiler.profile.export_stacks),
    (our_profiler.profile.export_chrome_trace, torch_profiler.profile.export_chrome_trace),
    (
        our_profiler.profile.toggle_collection_dynamic,
        torch_profiler.profile.toggle_collection_dynamic,
    ),
    (our_profiler.emit_nvtx, torch_profiler.emit_nvtx),
    (our_profiler.emit_itt, torch_profiler.emit_itt),
    (tracegrad.profiler.profile, torch.profiler.profile),
    (tracegrad.profiler.schedule, torch.profiler.schedule),
    (tracegrad.profiler.tensorboard_trace_handler, torch.profiler.tensorboard_trace_handler),
    *(
        (getattr(tracegrad.profiler.profile, name), getattr(torch.profiler.profile, name))
        for name in "start stop step events key_averages export_chrome_trace export_stacks export_memory_timeline "
        "add_metadata add_metadata_json preset_metadata_json toggle_collection_dynamic get_trace_id "
        "set_custom_trace_id_callback prepare_trace start_trace stop_trace".split()
    ),
]


@pytest.mark.parametrize(
    ("ours", "theirs"), PUBLIC, ids=lambda f: getattr(f, "__qualname__", str(f))
)
def test_signatures(ours: Any, theirs: Any) -> None:
    mine, peers = (
        [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (ours, theirs)
    )
    assert mine == peers


ERRORS = [
    lambda lib: lib.profiler.profile(activities=[]),
    lambda lib: lib.profiler.profile(activities=["cpu"]),
    lambda lib: lib.profiler.profile(activities=[lib.profiler.ProfilerActivity.CPU] * 2),
    lambda lib: lib.profiler.profile(speed=1),
    lambda lib: lib.profiler.profile().key_averages(),
    lambda lib: lib.profiler.profile().events(),
    lambda lib: lib.profiler.profile().export_stacks("x"),
    lambda lib: lib.profiler.profile().export_chrome_trace("x"),
    lambda lib: lib.profiler.profile().stop(),
    lambda lib: lib.profiler.schedule(wait=-1, warmup=1, active=1),
    lambda lib: lib.profiler.schedule(wait=0, warmup=1, active=1)(-1),
    lambda lib: lib.autograd.profiler.profile(post_processing_timeout_s=-1),
    lambda lib: lib.autograd.profiler.profile(use_cpu=False),
    lambda lib: lib.autograd.profiler.profile(use_cpu=False, use_kineto=True),
    lambda lib: lib.autograd.profiler.profile(speed=1),
    lambda lib: profiled(lib, lambda: lib.ones(1)).export_stacks("x"),
    lambda lib: profiled(lib, lambda: lib.ones(1)).function_events.export_stacks("x", "speed"),
    lambda lib: profiled(lib, lambda: lib.ones(1)).key_averages().table(sort_by="speed"),
    lambda lib: profiled(lib, lambda: lib.ones(1)).__enter__(),
]


@pytest.mark.parametrize("index", range(len(ERRORS)))
def test_errors(index: int) -> None:
    told = []
    for lib in (tg, torch):
        with pytest.raises(Exception) as raised:  # noqa: PT011  (compared below)
            ERRORS[index](lib)
        told.append((raised.type, str(raised.value).partition("\n")[0]))
    assert told[0] == told[1]


WARNINGS = [
    lambda lib: lib.profiler.profile(use_cuda=True, activities=[lib.profiler.ProfilerActivity.CPU]),
    lambda lib: lib.profiler.schedule(wait=0, warmup=0, active=1),
    lambda lib: lib.autograd.profiler.profile(use_cuda=True),
    lambda lib: lib.autograd.profiler.profile(use_device="xpu"),
    lambda lib: lib.autograd.profiler.profile(use_device="cpu"),
]


@pytest.mark.parametrize("index", range(len(WARNINGS)))
def test_warnings(index: int) -> None:
    told = []
    for lib in (tg, torch):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            WARNINGS[index](lib)
        told.append([(w.category, str(w.message)) for w in seen])
    assert told[0] == told[1]


@pytest.fixture
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("acc_events", [False, True])
@pytest.mark.parametrize(
    "plan",
    [
        {"wait": 1, "warmup": 1, "active": 2},
        {"wait": 0, "warmup": 0, "active": 1, "repeat": 3},
        {"wait": 2, "warmup": 1, "active": 2, "repeat": 1, "skip_first": 3},
        {"wait": 3, "warmup": 0, "active": 1, "skip_first": 1, "skip_first_wait": 1},
    ],
    ids=str,
)
def test_cycles(plan: dict[str, int], acc_events: bool) -> None:
    """What each cycle recorded, told at the time of the callback and in the end."""
    found = []
    for lib in (tg, torch):
        told: list[Any] = []

        def counts(prof: Any) -> Any:
            return collections.Counter(e.name for e in prof.events() if visible(e))

        with lib.profiler.profile(
            schedule=lib.profiler.schedule(**plan),
            on_trace_ready=lambda prof, told=told, counts=counts: told.append(counts(prof)),
            acc_events=acc_events,
        ) as prof:
            for step in range(14):
                for _ in range(step + 1):
                    lib.ones(2)
                prof.step()
        found.append((told, counts(prof), prof.step_num, prof.current_action.name))
    assert found[0] == found[1]
