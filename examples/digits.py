"""A CNN on scikit-learn's digits with every choice left to handful; fails below 97% held-out accuracy."""

import handful

run = handful.fit("auto", "digits", augment="auto", until="epochs(12)")
accuracy = run.scores["valid_accuracy"]
print(f"accuracy {accuracy:.1%}; batch {run.plan.batch}: {run.plan.choices['batch'].reason}")
if accuracy < 0.97:
    raise SystemExit(f"missed 97%: {accuracy:.1%}")
