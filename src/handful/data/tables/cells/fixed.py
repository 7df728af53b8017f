"""Tables whose columns stand at fixed places of a line: blanks in all lines set them apart, and may stand in values."""

import csv
import io
import itertools

from handful.base.errors import HandfulError

_LINES = 200  # that are looked at
Gaps = tuple[tuple[int, int], ...]  # places from a to b - 1 between columns


def gaps(text: str) -> Gaps:
    """The places that are blank in all lines, with a name of the header on either side; () where quotes or tabs stand.

    >>> gaps("name      age\\nAnna       23\\nNew Bo    107\\n")
    ((6, 10),)
    """
    lines = [line.rstrip() for line in text.split("\n")[:_LINES] if line.strip()]
    if len(lines) < 2 or "  " not in lines[0].strip() or '"' in text or "\t" in text:
        return ()
    blank = [all(line[k : k + 1] in ("", " ") for line in lines) for k in range(max(map(len, lines)))]
    inked = [k for k, nothing in enumerate(blank) if not nothing]
    found = [(k + 1, after) for k, after in itertools.pairwise(inked) if after > k + 1]
    k = 0
    while found and k <= len(found):  # a word of its own in the rows alone, or the header, belongs to what is nearer
        part = slice(found[k - 1][1] if k else 0, found[k][1] if k < len(found) else None)
        near = min((j for j in (k - 1, k) if 0 <= j < len(found)), key=lambda j: found[j][1] - found[j][0])
        blanks = found[near][1] - found[near][0]
        if not lines[0][part].strip() or (blanks == 1 and not any(line[part].strip() for line in lines[1:])):
            del found[near]
            k = 0
        else:
            k += 1
    return tuple(found)


def apart(text: str, between: Gaps) -> str:
    """The lines as records of CSV; as they are where there are no gaps. HandfulError for a line with no blank where
    columns are to be cut.

    >>> apart("name      age\\nNew Bo    107\\n\\n          7\\n", ((6, 10),))
    'name,age\\nNew Bo,107\\n\\n,7\\n'
    """
    if not between:
        return text
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for line in text.removeprefix("\ufeff").split("\n"):
        record, start = list[str](), 0
        for a, b in between if line.strip() else ():
            at = line.ljust(b).find(" ", a, b)
            if at < 0:
                raise HandfulError(
                    f"columns stand at fixed places of a line, with blanks at {a + 1} to {b}, and a line has none "
                    f"there: '{line.strip()[:80]}'; read it with pandas.read_fwf(widths=...), and give the frame"
                )
            record.append(line[start:at].strip())
            start = at
        writer.writerow([*record, line[start:].strip()] if record else [])
    return out.getvalue().removesuffix("\n")
