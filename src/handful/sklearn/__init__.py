"""Mini-batch gradient descent as scikit-learn estimators: in pipelines, cross-validation and searches."""

from handful.sklearn.estimators import MiniBatchClassifier, MiniBatchRegressor

__all__ = ["MiniBatchClassifier", "MiniBatchRegressor"]
