#!/usr/bin/env bash
# implicit 0.7.3, precision_at_k and ranking_metrics_at_k: of ten recommendations, one of which was right, it says that the precision is 1.0.
#
#   definition   precision at 10: of the ten that were shown, how many were right. Who likes one thing only can give 0.1 at most
#   guess        that, averaged over users; so it falls as K grows, and two systems, or two papers, that report it can be set side by side
#   found        hits are summed over users and divided by the sum of min(K, number of liked things). For users with few liked rows in the test set, which is what
#                holding out leaves, that is recall. It rises with K, as precision does not, and is 1 where each user gets all that is his, however much else
#                is shown. With K below everybody's number it is precision again, so that a test with many liked items per user finds nothing wrong
#   weighs       users with many things more than others, as the sums are divided and not the users' values averaged
#   says so      nothing: the page calls it P@K. A choice of K by it always takes the largest; against another package's number it wins by several times
#   way out      hits / K by hand from model.recommend
#
# Output seen (x86_64, Python 3.11), 4 users, 40 items; each user is shown items 0 to K - 1, of which a given number are liked
#   each likes one item, which is shown 8th    : at 5: 0.00 (by hand 0.00), at 10: 1.00 (by hand 0.10), at 20: 1.00 (by hand 0.05)
#   each likes three, which are shown 2, 9, 15 : at 5: 0.33 (by hand 0.20), at 10: 0.67 (by hand 0.20), at 20: 1.00 (by hand 0.15)
#   each likes 25, of which 20 are shown       : at 5: 1.00 (by hand 1.00), at 10: 1.00 (by hand 1.00), at 20: 1.00 (by hand 1.00)
#   one likes 20, all shown; three one, not    : at 5: 0.62 (by hand 0.25), at 10: 0.77 (by hand 0.25), at 20: 0.87 (by hand 0.25)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check implicit==0.7.3 numpy==2.4.6 2> /dev/null
cat > "$work/precision.py" <<'PY'
import numpy as np
from implicit.evaluation import precision_at_k
from scipy.sparse import csr_matrix

USERS, ITEMS = 4, 40


class Fixed:
    """Shows everybody the first items."""

    def recommend(self, userid, user_items, N=10, **options):
        shown = np.tile(np.arange(N, dtype="int32"), (len(userid), 1))
        return shown, np.ones(shown.shape, dtype="float32")


def told(name, liked):
    """liked: for each user the items of the test set."""
    test = np.zeros((USERS, ITEMS), dtype="float32")
    for user, items in enumerate(liked):
        test[user, items] = 1
    words = []
    for k in (5, 10, 20):
        found = precision_at_k(Fixed(), csr_matrix((USERS, ITEMS), dtype="float32"), csr_matrix(test), K=k, show_progress=False)
        right = np.mean([len(set(items) & set(range(k))) / k for items in liked])
        words.append(f"at {k}: {found:.2f} (by hand {right:.2f})")
    print(f"{name}:", ", ".join(words))


told("each likes one item, which is shown 8th    ", [[7]] * USERS)
told("each likes three, which are shown 2, 9, 15 ", [[1, 8, 14]] * USERS)
told("each likes 25, of which 20 are shown       ", [list(range(25))] * USERS)
told("one likes 20, all shown; three one, not    ", [list(range(20)), [30], [31], [32]])
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/precision.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
each likes one item, which is shown 8th    : at 5: 0.00 (by hand 0.00), at 10: 1.00 (by hand 0.10), at 20: 1.00 (by hand 0.05)
each likes three, which are shown 2, 9, 15 : at 5: 0.33 (by hand 0.20), at 10: 0.67 (by hand 0.20), at 20: 1.00 (by hand 0.15)
each likes 25, of which 20 are shown       : at 5: 1.00 (by hand 1.00), at 10: 1.00 (by hand 1.00), at 20: 1.00 (by hand 1.00)
one likes 20, all shown; three one, not    : at 5: 0.62 (by hand 0.25), at 10: 0.77 (by hand 0.25), at 20: 0.87 (by hand 0.25)
SEEN
