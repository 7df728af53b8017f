"""An exported model as a file: weights, a torch.export program, or ONNX."""

import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _autograd as autograd
from torch._C import _functorch as functorch
from torch.export import Dim, ExportedProgram

from handful.base import files
from handful.base.errors import MISTAKES, HandfulError
from handful.base.plan import Plan, versions
from handful.runs.export.card import card
from handful.runs.export.program import Program, Raw
from handful.training.objective import Objective
from handful.training.process import checkpoint
from handful.transform.pipeline import Pipeline

NEEDED = ("onnx", "onnxscript")
Facts = Mapping[str, object]  # what the file holds, as JSON


def write_export(
    path: Path, objective: Objective, pipeline: Pipeline, plan: Plan, scores: Mapping[str, float], stopped_because: str
) -> None:
    """Write the model as the ending of the path says, and its card; see `Run.export`."""
    if path.suffix not in (".safetensors", ".pt2", ".onnx"):
        raise HandfulError(
            f"{path.name}: export writes .onnx, .pt2 (a torch.export program) or .safetensors (the weights alone)"
        )
    if path.name == "model.safetensors" and (path.parent / "plan.toml").exists():
        raise HandfulError(f"{path} is what the run keeps its weights in: write to another file")
    about: dict[str, object] = {"model": str(plan.model), "data": str(plan.data), "scores": dict(scores), **versions()}
    facts: dict[str, object] = {}
    if path.suffix == ".safetensors":
        # one entry: safetensors writes several in an order of chance, and the same run would not give the same file
        checkpoint.write_tensors(path, dict(objective.model.state_dict()), {"handful": json.dumps(about)})
    else:
        program = Program(pipeline, objective)
        facts = program.facts()
        (write_program if path.suffix == ".pt2" else write_onnx)(program, about | facts, path)
    page = card(path.name, plan, scores, stopped_because, pipeline.trained_on, facts)
    files.write_text(path.with_suffix(".card.md"), page)


def write_program(program: Program, facts: Facts, path: Path) -> None:
    """A torch.export program whose module takes a dict of Tensors by column; `facts` in its extra file handful.json."""
    packed = io.BytesIO()  # torch's own writer ends the process where the disk is full
    torch.export.save(traced(program), packed, extra_files={"handful.json": json.dumps(facts)})
    with files.atomic(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


def write_onnx(program: Program, facts: Facts, path: Path) -> None:
    """An ONNX model of one input per column and one output; categories are strings there. `facts` in its metadata."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise HandfulError(f"{path.name}: to write ONNX needs {' and '.join(missing)}: pip install 'handful[onnx]'")
    import onnx

    names = [raw.name for raw in program.raws]
    exported = traced(program)
    try:
        with _quiet():
            exported = exported.run_decompositions(_REWRITTEN)
            made = torch.onnx.export(
                exported, dynamo=True, verbose=False, input_names=names, output_names=[program.gives]
            )
    except MISTAKES as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        why = str(root).strip().partition("\n")[0]
        raise HandfulError(
            f"{path.name}: torch.onnx cannot write {type(program.model).__name__}; export .pt2 ({why})"
        ) from error
    assert made is not None
    model = made.model_proto
    for raw in program.raws:
        if raw.classes is not None:
            _name_classes(model, raw)
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.checker.check_model(model)
    with files.atomic(path) as temporary:
        onnx.save(model, str(temporary))


def traced(program: Program) -> ExportedProgram:
    """The program for any number of rows, and any length of those that vary."""
    rows = Dim("rows")
    sides = {
        raw.name: {0: rows} | {d + 1: Dim.DYNAMIC for d, side in enumerate(raw.shape) if side is None}
        for raw in program.raws
    }
    errors: list[Exception] = []
    for strict in (False, True):  # the second way is slow, and takes len(x) for any number of rows
        try:
            with _quiet():
                return torch.export.export(program, (program.example(3),), dynamic_shapes=(sides,), strict=strict)
        except MISTAKES as error:
            errors.append(error)
            if functorch.peek_interpreter_stack() is not None:  # torch 2.13 leaves those of a vmap or grad in the model
                autograd._saved_tensors_hooks_enable()  # there, under which no random number can be drawn any more,
            while functorch.peek_interpreter_stack() is not None:  # nor a step checkpointed
                functorch.pop_dynamic_layer_stack()
    why = str(errors[-1]).strip().partition("\n")[0]
    if why.startswith("Constraints violated"):
        recurrent = any(isinstance(layer, nn.RNNBase) for layer in program.model.modules())
        why = (
            "its forward goes through the rows, or counts them, in Python; let it work on whole tensors, as x.shape[0]"
        )
        if recurrent and any(None in raw.shape for raw in program.raws):
            why = (
                "recurrent layers are traced for one length of rows alone: export .safetensors, or pad all rows to one"
            )
    raise HandfulError(f"torch.export cannot trace {type(program.model).__name__}: {why}") from errors[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


def _only_in_double(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: f(x) if x.dtype == torch.float64 else NotImplemented


def _log_sum(a: Tensor, b: Tensor, base: float) -> Tensor:
    """log(base^a + base^b), of infinities too."""
    of_two = torch.maximum(a, b) + (-(a - b).abs() * math.log(base)).exp().log1p() / math.log(base)
    return torch.where(a == b, a + math.log(2) / math.log(base), of_two)


def _avg_pool(pool: Callable[..., Any]) -> Callable[..., Any]:
    def rewritten(
        x: Tensor, kernel: list[int], stride: Sequence[int] = (), padding: int | Sequence[int] = 0, ceil: bool = False,
        pad_counts: bool = True, divisor: int | None = None,
    ) -> Any:  # fmt: skip
        if divisor is None:
            return NotImplemented
        if ceil:
            raise NotImplementedError("a mean over places with divisor_override and ceil_mode")
        return pool(x, kernel, stride or None, padding) * (math.prod(kernel) / divisor)

    return rewritten


# ONNX Runtime 1.32 has no kernels for the first two in float64, which dates and long tails are computed in. The others
# torch.onnx writes as what they come to near 0 alone, log(sigmoid(x)), log(exp(a) + exp(b)), or without a divisor.
_REWRITTEN: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.cos.default: _only_in_double(lambda x: (x + math.pi / 2).sin()),
    torch.ops.aten.asinh.default: _only_in_double(lambda x: x.sign() * (x.abs() + (x * x + 1).sqrt()).log()),
    torch.ops.aten.log_sigmoid.default: lambda x: -F.softplus(-x),
    torch.ops.aten.logaddexp.default: partial(_log_sum, base=math.e),
    torch.ops.aten.logaddexp2.default: partial(_log_sum, base=2.0),
    torch.ops.aten.avg_pool2d.default: _avg_pool(F.avg_pool2d),
    torch.ops.aten.avg_pool3d.default: _avg_pool(F.avg_pool3d),
}


def _name_classes(model: Any, raw: Raw) -> None:
    """Let a category come by name: its codes become what an operator gives for strings."""
    from onnx import TensorProto, helper

    graph = model.graph
    codes = f"code of {raw.name}"
    for node in graph.node:
        node.input[:] = [codes if name == raw.name else name for name in node.input]
    names = {**dict.fromkeys(("", *raw.missing), -1), **{name: code for code, name in enumerate(raw.classes or ())}}
    graph.node.insert(
        0,
        helper.make_node(
            "LabelEncoder", [raw.name], [codes], domain="ai.onnx.ml", keys_strings=list(names),
            values_int64s=list(names.values()), default_int64=len(raw.classes or ()),
        ),
    )  # fmt: skip
    for given in graph.input:
        if given.name == raw.name:
            given.type.tensor_type.elem_type = TensorProto.STRING
    if not any(used.domain == "ai.onnx.ml" for used in model.opset_import):
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
