"""Whole federations on one machine: engines, scenarios, baselines."""
