#!/usr/bin/env bash
# torchaudio 2.11.1 (torch 2.13.0) and librosa 0.11.0, MFCC of a batch of clips: what a quiet clip's features are depends on the loudest clip beside it.
#
#     torchaudio.transforms.MFCC(16000)(clips)        librosa.feature.mfcc(y=clips, sr=16000)        # clips: (batch, time)
#
# Both take "(..., time)", and spectrograms, mel filters and resampling treat each row by itself. One expects of a batch what one gets of its clips one by one, and finds it of two like ones.
#
# On the way to decibels all that lies 80 dB below the maximum is cut off, and the maximum is that of the whole tensor: of an array (batch, mel, time) torchaudio takes the first axis for the
# channels of one recording (so says a note at AmplitudeToDB, not at MFCC), librosa takes the maximum over all axes. A clip of -50 dB beside one of 0 dB loses what is 30 dB below its own
# peak, the upper bands first, and they become a constant. So features change with batch size, order and shuffling, and a model that is trained or tested in batches is another
# one where it is asked for one clip. Way out: (batch, 1, time) in torchaudio; one clip at a time in librosa.
#
# Output seen (CPU, x86_64, Python 3.11), 400 clips of 0 to -60 dB, two classes that differ in the upper bands; a classifier of features of single clips, on others
#   torchaudio: one by one 1.00, four at a time 0.80 to 0.95, all at once below 0.80; sorted by loudness, 32 at a time, 1.00; with an axis for channels, all at once, 1.00
#   librosa   : one by one 1.00, four at a time 0.80 to 0.95, all at once below 0.80; sorted by loudness, 32 at a time, 1.00; with an axis for channels, all at once, below 0.80
#   the same clip, alone and beside one that is 60 dB louder: over half of the coefficients differ by more than 1 in torchaudio True, librosa True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchaudio==2.11.1 librosa==0.11.0 scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
rm "$work"/venv/lib/python3*/site-packages/torchaudio/lib/*.so  # operators in C++, which want torch's CUDA libraries; MFCC has no use for them
cat > "$work/clips.py" <<'PY'
import librosa
import torch
import torchaudio
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

RATE = 16000
SIZES = {"n_mels": 40, "n_fft": 512, "hop_length": 256}
KINDS = {
    "torchaudio": torchaudio.transforms.MFCC(RATE, n_mfcc=20, melkwargs=SIZES),
    "librosa": lambda clips: torch.tensor(librosa.feature.mfcc(y=clips.numpy(), sr=RATE, n_mfcc=20, **SIZES)),
}


def rows(number, seed):
    """Clips (number, time) of noise that falls off by 80 dB to the top, and 14 dB less in the top third for class 1."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (number,), generator=draw)
    level = 10 ** (-3 * torch.rand(number, 1, generator=draw))
    waves = torch.fft.rfft(torch.randn(number, RATE, generator=draw))
    place = torch.linspace(0, 1, waves.shape[1])
    gain = 10 ** (-4 * place) * torch.where((labels[:, None] == 1) & (place > 0.7), 5, 1)
    clips = torch.fft.irfft(waves * gain, n=RATE)
    return clips / clips.abs().amax(1, keepdim=True) * level, labels


def said(score):
    if score > 0.995:
        return "1.00"
    return "0.80 to 0.95" if 0.80 < score < 0.95 else "below 0.80" if score <= 0.80 else f"{score:.3f}"


apart = []
for name, features in KINDS.items():
    def means(clips, size):
        return torch.cat([features(part) for part in clips.split(size)]).mean(-1).flatten(1).numpy()

    clips, labels = rows(400, 0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(means(clips, 1), labels)
    clips, labels = rows(400, 1)
    one, four, every = (said(model.score(means(clips, size), labels)) for size in (1, 4, 400))
    order = clips.abs().amax(1).argsort()
    by_level = said(model.score(means(clips[order], 32), labels[order]))
    channels = said(model.score(means(clips[:, None], 400), labels))
    print(f"{name:10}: one by one {one}, four at a time {four}, all at once {every}; sorted by loudness, 32 at a time, {by_level}; with an axis for channels, all at once, {channels}")
    quiet = clips[:1] / clips[:1].abs().max() * 0.001
    beside = features(torch.cat([quiet, clips[1:2] / clips[1:2].abs().max()]))[0]
    apart.append(f"{name} {(features(quiet)[0, 1:] - beside[1:]).abs().gt(1).float().mean() > 0.5}")
print("the same clip, alone and beside one that is 60 dB louder: over half of the coefficients differ by more than 1 in", ", ".join(apart))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/clips.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
torchaudio: one by one 1.00, four at a time 0.80 to 0.95, all at once below 0.80; sorted by loudness, 32 at a time, 1.00; with an axis for channels, all at once, 1.00
librosa   : one by one 1.00, four at a time 0.80 to 0.95, all at once below 0.80; sorted by loudness, 32 at a time, 1.00; with an axis for channels, all at once, below 0.80
the same clip, alone and beside one that is 60 dB louder: over half of the coefficients differ by more than 1 in torchaudio True, librosa True
SEEN
