"""Where and how a step is computed: device, precision, threads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from handful.base.errors import HandfulError, did_you_mean
from handful.base.machine import NARROW
from handful.base.plan import Choice

BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")  # of `torch.cpu.get_capabilities`


def choose_device(asked: str, exact: bool = False) -> Choice:
    """The accelerator where there is one, else the CPU. exact: float64 is asked for, which Apple's GPU has not."""
    if asked != "auto":
        try:
            torch.empty(0, device=asked)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            why = str(error).splitlines()[0].partition(". ")[0]
            if "Expected one of" in why:
                raise HandfulError(f"there is no device '{asked}': name cpu, cuda, cuda:1, mps, xpu or auto") from None
            raise HandfulError(f"device '{asked}' cannot be used here: {why}") from None
        if exact and torch.device(asked).type in NARROW:
            raise HandfulError(f"device '{asked}' has no float64, which the model or precision asks for: name cpu")
        return Choice(asked, "given")
    if torch.cuda.is_available():
        return Choice("cuda", "found", torch.cuda.get_device_name())
    if torch.backends.mps.is_available():
        if exact:
            return Choice("cpu", "found", "Apple's GPU has no float64")
        return Choice("mps", "found", "Apple's GPU")
    return Choice("cpu", "found", "no accelerator")


def needs_float64(model: object, precision: str) -> bool:
    """Whether a run computes in it."""
    own = {p.dtype for p in model.parameters()} if isinstance(model, nn.Module) else set()
    return precision == "float64" or bool(own & {torch.float64, torch.complex128})


def known_precision(asked: str) -> None:
    """HandfulError for a precision that there is not."""
    known = ("auto", "float32", "bfloat16", "float64")
    if asked not in known:
        raise HandfulError(f"precision '{asked}' is unknown.{did_you_mean(asked, known)}")


def choose_precision(asked: str, device: str, model: nn.Module) -> tuple[Choice, torch.dtype | None]:
    """bfloat16 autocast of a float32 model on a GPU that computes in it, else the model's own; and the autocast
    dtype."""
    known_precision(asked)
    own = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if asked != "auto":
        choice = Choice(asked, "given")
    elif own == {torch.float64}:
        choice = Choice("float64", "found", "the model's own weights")
    elif own - {torch.float32}:
        kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in own))
        choice = Choice("float32", "default", f"no autocast; the model's own weights are {kinds}")
    elif device.startswith("cuda") and torch.cuda.is_bf16_supported():
        choice = Choice("bfloat16", "default", "autocast on a GPU that supports it; the weights stay float32")
    elif device == "cpu" and not bfloat16_on_cpu():
        choice = Choice("float32", "found", "this processor has no arithmetic of lower precision")
    else:
        choice = Choice("float32", "default", "the model's own precision")
    return choice, autocast(str(choice.value))


def bfloat16_on_cpu() -> bool:
    """Whether the processor may compute faster in bfloat16: it has instructions for it, or this torch cannot say."""
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return not known or any(known.get(name) for name in BFLOAT16)


def autocast(precision: str) -> torch.dtype | None:
    """The dtype for torch.autocast, or None for none."""
    return torch.bfloat16 if precision == "bfloat16" else None


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads (None: as it is) inside the block."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
