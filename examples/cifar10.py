"""A small CNN on CIFAR-10 from Parquet files of JPEGs, as `handful train` does it; fails below 65% after 4 epochs.

python examples/cifar10.py [folder with cifar10-train.parquet and cifar10-test.parquet]
"""

import sys
from pathlib import Path

import handful

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data"
train, test = folder / "cifar10-train.parquet", folder / "cifar10-test.parquet"
if not train.exists():
    raise SystemExit(f"there is no {train}: name the folder that holds it")
run = handful.fit("cnn", train, valid=test, augment="auto", until="epochs(4)")
accuracy = run.scores["valid_accuracy"]
print(f"accuracy {accuracy:.1%} after {run.history[-1]['seconds']:.0f} s; {run.stopped_because}")
if accuracy < 0.65:
    raise SystemExit(f"missed 65%: {accuracy:.1%}")
