"""Audio: log-mel spectrograms to classes, or to a sequence of labels by CTC."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.models.base import Dropout, Inputs, Model


class Audio(Model):
    """A small convolutional network over time and frequency.

    x: float [m, mels, frames] (or [m, 1, mels, frames]), standardised; frames may differ from batch to batch. The
    frames of a row end before its trailing frames of zeros, which is how `LogMel` pads; everything after is masked in
    every layer, so more padding changes nothing in evaluation. (While training, BatchNorm's statistics do see masked
    frames as zeros.)
    ctc false: returns [m, outputs]. ctc true: returns logits [m, ceil(frames / 2), outputs] for `loss.ctc`; label 0
    is the blank, so outputs is one more than the number of labels. Frames of padding are certain to be blank, so
    that they change neither the loss nor what is decoded.
    Parameters for 64 mels, 10 outputs: 54,322; with ctc 266,002.

    >>> Audio(mels=40, outputs=5)(torch.randn(2, 40, 33)).shape
    torch.Size([2, 5])
    """

    name = "audio"
    kinds = ("audio",)

    def __init__(self, mels: int, outputs: int, width: int = 24, ctc: bool = False, dropout: float = 0.1) -> None:
        super().__init__(locals())
        if mels < 8:
            raise HandfulError(f"model audio needs at least 8 mel bands, not {mels}")
        self.ctc = ctc
        steps = (2, 1, 1) if ctc else (2, 2, 2)  # over time; over frequency every stage halves
        widths = (1, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            MaskedConv(a, b, step, strided=a == 1) for a, b, step in zip(widths, widths[1:], steps)
        )
        self.context = nn.ModuleList()
        pooled = 8 * width
        if ctc:
            pooled = 4 * width
            bands = (mels + 1) // 2 // 2 // 2
            self.fold = nn.Linear(4 * width * bands, pooled)
            self.context.extend(DilatedConv(pooled, dilation) for dilation in (1, 2, 4))
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(pooled, outputs)

    @classmethod
    def arguments(cls, inputs: Inputs, outputs: int, rows: int | None) -> dict[str, object]:
        sides = [s for s in inputs.shape[:-1] if s is not None]
        mels = inputs.mels or (sides[-1] if sides else 0)
        if not mels:
            raise HandfulError("model audio is for log-mel spectrograms; of this input 'mels' is not known")
        return {"mels": mels, "outputs": outputs}

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] if x.dim() == 3 else x
        valid = frames(x).clamp_min(1)
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x, valid = stage(x, valid)
        if not self.ctc:
            mean = x.mean(2).sum(2) / valid[:, None]
            top = x.amax((2, 3))  # 0 at masked frames, and nothing is below 0
            return self.out(self.dropout(torch.cat([mean, top], dim=1)))  # type: ignore[no-any-return]
        y = self.fold(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
        for layer in self.context:
            y = layer(y, valid)
        logits: Tensor = self.out(self.dropout(y.transpose(1, 2)))
        blank = logits.new_full((logits.shape[2],), -100.0)  # e^-100 counts for nothing next to e^0
        blank[0] = 0
        return torch.where(_within(valid, logits.shape[1])[:, :, None], logits, blank)


class MaskedConv(nn.Module):
    """Convolution 3 x 3, BatchNorm, ReLU, mask, max-pooling by 2 over frequency and `step` over time.

    strided: the convolution itself steps, for the first stage, whose whole-size output would cost most of the time.
    """

    def __init__(self, before: int, width: int, step: int, strided: bool) -> None:
        super().__init__()
        stride = (2, step) if strided else 1
        self.conv = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.step, self.strided = step, strided

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.conv(x)))
        fewer = -(-valid // self.step)
        within = _within(fewer if self.strided else valid, x.shape[3])
        x = x * within[:, None, None].to(x.dtype)
        if self.strided:
            return x, fewer
        x = F.pad(x, (0, -x.shape[3] % self.step))  # a last odd frame counts
        return F.max_pool2d(x, (2, self.step)), fewer


class DilatedConv(nn.Module):
    """y + a dilated convolution over time. y: float [m, width, frames]."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, y: Tensor, valid: Tensor) -> Tensor:
        return y + torch.relu(self.norm(self.conv(y * _within(valid, y.shape[2])[:, None])))


def frames(x: Tensor) -> Tensor:
    """Frames of each row of x [m, ..., frames] before the trailing frames of zeros, int64 [m]."""
    sounding = (x != 0).flatten(1, -2).any(1) if x.dim() > 2 else x != 0
    return (sounding * torch.arange(1, x.shape[-1] + 1, device=x.device)).amax(1)


def _within(valid: Tensor, length: int) -> Tensor:
    """Which of `length` frames come before the end of each row, bool [m, length]."""
    return torch.arange(length, device=valid.device) < valid[:, None]
