"""Checkpoints that survive a kill at any moment: written beside, fsynced, renamed, with a checksum; never pickled.

A checkpoint is two files in `checkpoints/`: `<step>.safetensors` with every tensor, and `<step>.json` with the rest
and the SHA-256 of the first. The .json is renamed into place last, so a checkpoint that has one is whole.
"""

from collections.abc import Collection
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.files import a_file, atomic, changing, read_json, sha256, write_json
from handful.base.plan import Row

KEPT = 2
PAIRS = " as pairs of float64"  # behind the name of a complex128 Tensor
START = "start.json"


def write_tensors(path: Path, tensors: dict[str, Tensor], told: dict[str, str] | None = None) -> str:
    """Write tensors atomically as safetensors, with what is told of them; returns the file's SHA-256."""
    with atomic(path) as temporary:
        # A clone each: safetensors refuses tensors that share memory (tied weights do).
        copies = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        for name in [k for k, v in copies.items() if v.dtype == torch.complex128]:  # which safetensors has not
            copies[name + PAIRS] = torch.view_as_real(copies.pop(name).resolve_conj())
        safetensors.torch.save_file(copies, temporary, metadata=told)
        digest = sha256(temporary)
    return digest


def read_tensors(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises HandfulError when it is missing or damaged: not readable as such, or
    not of this SHA-256."""
    try:
        if digest is not None and sha256(path) != digest:
            raise HandfulError(f"{path} is damaged: its checksum does not match")
        found = safetensors.torch.load_file(a_file(path))
        for name in [k for k in found if k.endswith(PAIRS)]:
            # a clone, as a file's tensors lie at multiples of 8 bytes, and torch crashes on these at none of 16
            found[name.removesuffix(PAIRS)] = torch.view_as_complex(found.pop(name).clone())
        # torch.export.save (2.13) takes no empty tensor that has an address, as one in a mapped file
        return {name: value if value.numel() else torch.empty_like(value) for name, value in found.items()}
    except (OSError, SafetensorError) as error:
        raise HandfulError(f"{path} cannot be read as safetensors: {error}") from None


def save(folder: Path, step: int, tensors: dict[str, Tensor], meta: Row, keep: Collection[int] = ()) -> None:
    """Write the checkpoint of a step and remove all but the first, where replays begin, the newest two, and those of
    the steps in `keep`. Those of later steps are of a past that the run went back from. Raises HandfulError where that
    cannot be done."""
    with changing(folder):
        for manifest in folder.glob("[0-9]*.json"):
            if int(manifest.stem) > step:
                manifest.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        stem = folder / f"{step:012d}"
        digest = write_tensors(stem.with_suffix(".safetensors"), tensors)
        write_json(stem.with_suffix(".json"), {**meta, "tensors": digest})
        whole = sorted(folder.glob("[0-9]*.json"))
        kept = {p.stem for p in [*whole[:1], *whole[-KEPT:]]} | {f"{k:012d}" for k in keep}
        for old in whole:
            if old.stem not in kept:
                old.unlink(missing_ok=True)
        for tensor_file in folder.glob("[0-9]*.safetensors"):
            if tensor_file.stem not in kept:
                tensor_file.unlink(missing_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)


def write_start(folder: Path, tensors: dict[str, Tensor], meta: Row) -> None:
    """Write what stood before the steps that measuring took: no checkpoint to go on from, but steps can be taken again
    from it."""
    with changing(folder):
        folder.mkdir(exist_ok=True)
    digest = write_tensors(folder / "start.safetensors", tensors)
    write_json(folder / START, {**meta, "tensors": digest})


def first_step(folder: Path) -> int:
    """The step of the oldest checkpoint: from there on steps can be taken again."""
    return min((int(manifest.stem) for manifest in folder.glob("[0-9]*.json")), default=0)


def read(manifest: Path) -> tuple[dict[str, Tensor], Row]:
    """(tensors, meta) of the checkpoint with this manifest. Raises HandfulError when it is damaged."""
    meta = read_json(manifest, "tensors")
    return read_tensors(manifest.with_suffix(".safetensors"), meta["tensors"]), meta


def load(folder: Path, before: int | None = None) -> tuple[dict[str, Tensor], Row, list[str]]:
    """The newest whole checkpoint: (tensors, meta, sentences on newer ones that were damaged and passed over).

    before: of those from which that step (counted from 1) is still to be taken. Raises HandfulError when there is none.
    """
    notes: list[str] = []
    manifests = sorted(folder.glob("[0-9]*.json"), reverse=True)
    if before is not None:
        first = first_step(folder)
        if before <= first:
            raise HandfulError(
                f"step {before:,} cannot be taken again: the first checkpoint in {folder} is of step {first:,} (the "
                f"steps before it were taken while rates were compared, and there is no {START})"
            )
        manifests = [m for m in manifests if int(m.stem) < before]
    for manifest in manifests:
        try:
            return *read(manifest), notes
        except HandfulError as error:
            notes.append(f"checkpoint {manifest.stem} is damaged ({error}); falling back to the one before")
    if notes:
        raise HandfulError(f"no checkpoint in {folder} is whole: {'; '.join(notes)}")
    raise HandfulError(f"there is no checkpoint in {folder}; the run was stopped before its first one: start it again")
