"""Kinds of subtask: what one loads, trains and measures. One file a kind, holding ``KIND``."""
