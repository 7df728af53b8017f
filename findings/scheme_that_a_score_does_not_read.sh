#!/usr/bin/env bash
# seqeval 1.2.2, f1_score(true, said, scheme=IOBES): the scheme is not read; a tagger that has four tags of an entity in ten wrong, and half of the entities right, has a score of 1.0.
#
# In IOBES an entity is S, or B ... E; what does not begin with B and end with E is none, and a decoder of that scheme does not hand it on. One who names the scheme expects it to be kept to.
#
# `scheme` counts only beside mode="strict", and mode="strict" only beside a scheme; either alone is the default, conlleval's rule, that starts an entity at any tag after O or after another type. By it
# "I-PER I-PER" is the same person as "B-PER E-PER". So the score does not see whether a model has learned where entities begin and end as long as an O stands between, and a wrong
# scheme, IOB2 for tags in IOBES, changes nothing either. classification_report is another case: with mode="strict" alone it finds the scheme out by itself, so that report and score of one
# call differ. Way out: both, mode="strict" and scheme.
#
# Output seen (CPU, x86_64, Python 3.11), 300 sentences in IOBES; of the tags B, E and S one in two is turned into I
#   tags of entities that are wrong 0.42; F1 counted by hand 0.4991
#   nothing said : f1_score 1.0000, classification_report 1.0000
#   scheme=IOBES : f1_score 1.0000, classification_report 1.0000
#   scheme=IOB2  : f1_score 1.0000, classification_report 1.0000
#   mode="strict": f1_score 1.0000, classification_report 0.4991
#   both, IOBES  : f1_score 0.4991, classification_report 0.4991
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check seqeval==1.2.2 scikit-learn==1.9.1 numpy==2.4.6 2> /dev/null
cat > "$work/tags.py" <<'PY'
import numpy as np
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2, IOBES

draw = np.random.default_rng(0)


def entities(tags):
    """Entities of a list of tags by the rules of IOBES: (first, last)."""
    found, first = set(), None
    for place, tag in enumerate(tags):
        if tag[0] in "BS":
            first = place
        if first is not None and tag[0] in "ES":
            found.add((first, place))
        if tag[0] in "OES":
            first = None
    return found


true, said = [], []
for _ in range(300):
    tags = []
    while len(tags) < 20:
        length = draw.integers(1, 4)
        tags += ["O"] * draw.integers(1, 4) + (["S-PER"] if length == 1 else ["B-PER"] + ["I-PER"] * (length - 2) + ["E-PER"])
    true.append(tags)
    said.append(["I-PER" if tag[0] in "BES" and draw.random() < 0.5 else tag for tag in tags])
right, all_true, all_said = np.sum([(len(entities(one) & entities(other)), len(entities(one)), len(entities(other))) for one, other in zip(true, said)], 0)
wrong = np.mean([one != other for row, answer in zip(true, said) for one, other in zip(row, answer) if one != "O"])
print(f"tags of entities that are wrong {wrong:.2f}; F1 counted by hand {2 * right / (all_true + all_said):.4f}")
for title, options in (("nothing said", {}), ("scheme=IOBES", {"scheme": IOBES}), ("scheme=IOB2", {"scheme": IOB2}), ('mode="strict"', {"mode": "strict"}), ("both, IOBES", {"scheme": IOBES, "mode": "strict"})):
    report = classification_report(true, said, output_dict=True, **options)["micro avg"]["f1-score"]
    print(f"{title:13}: f1_score {f1_score(true, said, **options):.4f}, classification_report {report:.4f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/tags.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
tags of entities that are wrong 0.42; F1 counted by hand 0.4991
nothing said : f1_score 1.0000, classification_report 1.0000
scheme=IOBES : f1_score 1.0000, classification_report 1.0000
scheme=IOB2  : f1_score 1.0000, classification_report 1.0000
mode="strict": f1_score 1.0000, classification_report 0.4991
both, IOBES  : f1_score 0.4991, classification_report 0.4991
SEEN
