"""Single cases for the estimator: read, judged and answered without a plan."""
