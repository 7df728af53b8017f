"""The one exception that a user's mistake raises, and the sentence it carries."""

import difflib
import operator
import re
from collections.abc import Iterable, Sequence

# What code of the caller's own raises on values that it is not made for.
MISTAKES = (RuntimeError, TypeError, ValueError, LookupError, AssertionError, NotImplementedError, AttributeError)
TO_UTF8 = "convert it, for example with iconv -f cp1252 -t utf8 (-f gb18030 for Chinese, shift_jis for Japanese)"


_USER = re.compile(r"(\w[\w+.-]*:/{1,2})[^/\s'\"]*@")
_QUERY = re.compile(r"(\w[\w+.-]*:/{1,2}[^\s'\"?]*)\?[^\s'\"]*=[^\s'\"),;]*")


def without_secrets(text: str) -> str:
    """The text with names, passwords and queries (which hold tokens and signatures) of addresses hidden.

    >>> without_secrets("s3://me:pw@host/a@b.csv and https://host/x.csv?sig=abc&t=1, memory://part-?.csv")
    's3://***@host/a@b.csv and https://host/x.csv?***, memory://part-?.csv'
    """
    return _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text)) if ":/" in text else text


def shown(text: object) -> str:
    r"""The text as it may be shown: without secrets, what would steer a terminal written out.

    >>> shown("cat\x1b[31m.png")
    'cat\\x1b[31m.png'
    """
    line = without_secrets(str(text))
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in line)


class HandfulError(ValueError):
    """What was wrong, where (file, row, column) and what to do, in one clear sentence.

    The command line prints the sentence and exits with its status; it never shows a traceback for it.
    """

    exit_status = 2

    def __init__(self, text: object) -> None:
        super().__init__(shown(text))


class StepError(HandfulError):
    """A step that could not be made in the middle of a run, which ends there; what it learned before is kept."""


_SCORES = {
    "acc": "accuracy", "categoricalaccuracy": "accuracy", "sparsecategoricalaccuracy": "accuracy", "auc": "auroc",
    "binaryaccuracy": "accuracy", "rocauc": "auroc", "f1score": "f1", "f1macro": "f1", "l1": "mae", "l2": "mse",
    "meanabsoluteerror": "mae", "meansquarederror": "mse", "rootmeansquarederror": "rmse", "smoothl1": "huber",
    "pinball": "quantile", "bce": "binary_cross_entropy", "bcewithlogits": "binary_cross_entropy",
    "ce": "cross_entropy", "nll": "cross_entropy", "log": "cross_entropy", "categoricalcrossentropy": "cross_entropy",
    "sparsecategoricalcrossentropy": "cross_entropy",
}  # fmt: skip
# What other libraries call the values of an option, by what is asked for, without marks and the word loss at its end.
ELSEWHERE: dict[str, dict[str, str]] = {
    "loss": _SCORES,
    "metric": _SCORES,
    "schedule": {"reducelronplateau": "on_plateau", "linear": "polynomial"},
    "preprocessing": {"standardscaler": "standardize", "zscore": "standardize", "minmaxscaler": "minmax"},
    "task": {"binary": "classification", "multiclass": "classification"},
}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def did_you_mean(name: str, known: Iterable[str], what: str = "") -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or the names, of very many the first, when none is near.

    what: what the names are of, in the words of `ELSEWHERE`, where other libraries' names stand for them.

    >>> did_you_mean("adamm", ["sgd", "adam"]), did_you_mean("C", ["a", "c"])
    (" Did you mean 'adam'?", " Did you mean 'c'?")
    >>> did_you_mean("acc", ["accuracy", "mcc"], "metric"), did_you_mean("acc", ["accuracy", "mcc"])
    (" Did you mean 'accuracy'?", " Did you mean 'mcc'?")
    >>> did_you_mean("zzz", ["sgd", "adam"])
    ' Known: adam, sgd'
    """
    names, called = sorted(set(known)), ELSEWHERE.get(what, {})
    plain = _plain(name).removesuffix("loss") if called else _plain(name)
    near = [n for n in names if n.casefold() == name.casefold()]
    near = near or [n for n in names if plain and (_plain(n) == plain or n == called.get(plain))]
    near = near or difflib.get_close_matches(name, names, 1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {some(names, 200)}"


# What other tools call an option, in the words of Python, which the command line puts in those of its flags.
CALLED = {
    "epochs": "until='epochs(N)'",
    "steps": "until='steps(N)'",
    "iter": "until='steps(N)'",
    "time": "until='seconds(N)'",
    "patience": "until='epochs(N) | plateau(N)'",
    "early_stopping": "until='epochs(N) | plateau(N)'",
    "iter_no_change": "until='epochs(N) | plateau(N)'",
    "batch_size": "batch=N",
    "bs": "batch=N",
    "learning_rate": "lr=X",
    "learning_rate_init": "lr=X",
    "solver": "optimizer=NAME",
    "momentum": "optimizer='sgd(momentum=0.9)'",
    "nesterov": "optimizer='nesterov'",
    "betas": "optimizer='adam(betas=[0.9, 0.95])'",
    "warmup": "schedule='cosine(warmup=0.05)'",
    "warmup_steps": "schedule='cosine(warmup=0.05)'",
    "warmup_ratio": "schedule='cosine(warmup=0.05)'",
    "lr_scheduler": "schedule=NAME",
    "scheduler": "schedule=NAME",
    "weight_decay": "l2=X",
    "wd": "l2=X",
    "alpha": "l2=X, scikit-learn's alpha divided by the batch",
    "dropout": "an option of the model: 'mlp(dropout=0.1)'",
    "hidden": "an option of the model: 'mlp(hidden=[64])'",
    "hidden_layer_sizes": "an option of the model: 'mlp(hidden=[64])'",
    "activation": "an option of the model: 'mlp(activation=NAME)'",
    "grad_norm": "clip_norm=X",
    "gradient_clip_val": "clip_norm=X",
    "accumulate_grad_batches": "micro_batch=ROWS",
    "gradient_accumulation_steps": "micro_batch=ROWS",
    "criterion": "loss=NAME",
    "output": "out=FOLDER",
    "output_dir": "out=FOLDER",
    "dtype": "precision=NAME",
    "fp16": "precision='float16'",
    "bf16": "precision='bfloat16'",
    "gpu": "device='cuda', and by itself where there is one",
    "metric": "metrics=NAME",
    "y": "the second of a pair, fit(model, (x, y))",
    "label": "target=COLUMN",
    "labels": "target=COLUMN",
    "val": "valid=SHARE",
    "validation": "valid=SHARE",
    "validation_split": "valid=SHARE",
    "validation_data": "valid=DATA",
    "validation_fraction": "valid=SHARE",
    "train_split": "valid=SHARE",
    "test_size": "valid=SHARE",
    "test": "valid=DATA, or afterwards `handful evaluate RUN TEST`",
    "random_state": "seed=N",
    "random_seed": "seed=N",
    "eval_steps": "evaluate_every=EPOCHS",
    "resume_from_checkpoint": "resume='auto'",
    "transform": "augment=NAME, or preprocess=NAME",
}


def no_option(name: str, known: Iterable[str]) -> str:
    """That there is none of that name, and what it is called here.

    >>> no_option("num_epochs", ["lr"]), no_option("lrr", ["lr"])
    ("there is no num_epochs; here it is until='epochs(N)'", "there is no option 'lrr'. Did you mean 'lr'?")
    """
    plain = name.lstrip("-").replace("-", "_").lower()
    here = CALLED.get(re.sub("^(num|n|nb|max)_(train_)?", "", plain))
    return (
        f"there is no {name}; here it is {here}" if here else f"there is no option '{name}'.{did_you_mean(name, known)}"
    )


def brief(error: BaseException) -> str:
    """What an error of someone else's says, on one line, cut where that is long."""
    return " ".join(str(error).split())[:300]


def some(names: Sequence[object], limit: int = 3) -> str:
    """The first few of many names, and how many more there are.

    >>> some(["a", "b", "c"]), some(["a", "b", "c", "d", "e"], 2)
    ('a, b, c', 'a, b and 3 more')
    """
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more


def whole(name: str, value: object, least: int | None = None) -> int:
    """`value` as an int; HandfulError, naming it, for anything that is no whole number or is below `least`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # a TypeError says so
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise HandfulError(f"{name} must be a whole number, not {value!r}")
    if least is not None and number < least:
        raise HandfulError(f"{name} must be at least {least}, not {number}")
    return number
