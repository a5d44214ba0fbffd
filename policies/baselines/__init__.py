"""Baseline policies for comparison: HPA, Knative, a Planner-like one and a static peak."""
