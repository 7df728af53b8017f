"""One row, mini-batches, all rows: the textbook's claims, measured on real data in about a minute.

The claims: steps on fewer rows are cheaper; gradients of more rows are steadier, by one over their number; and a
mini-batch reaches a target sooner than either end of the dial. Fails if one of them does not hold here.
"""

import torch

import handful

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

result = handful.compare(
    model, "digits", batches=[1, 32, "full"], epochs=3, reach=("valid_accuracy", 0.9), out="runs/compare-digits"
)
print(result)

one, handful_of_rows, every = result.table
assert one["step_seconds"] < every["step_seconds"], "a step on one row should be cheaper than one on all rows"

law = result.variance[0]
assert law.low - 0.05 < -1 < law.high + 0.05, f"the variance should fall as 1/B; its slope is {law.slope:.2f}"
assert one["gradient_deviation"] > handful_of_rows["gradient_deviation"] > every["gradient_deviation"]

seconds = [row.get("target_seconds", float("inf")) for row in (one, handful_of_rows, every)]
assert seconds[1] < min(seconds[0], seconds[2]), f"the mini-batch should reach the target first; seconds: {seconds}"
print(f"\nA mini-batch got there {seconds[0] / seconds[1]:.0f} times sooner than single rows.")
