"""A collaboration's file that uses every table, for the tests of reading one."""

from __future__ import annotations

from collab.collaboration import Collaboration
from collab.settings import override, parse, parse_toml

TEXT = """
name = "case"
rounds = 2
[subtasks.tumour]
kind = "tabular_classification"
labels = 2
data = "cells"
aggregation = { rule = "fedadam", server_lr = 0.1 }
[subtasks.digits]
kind = "image_classification"
labels = 10
data = "pixels"
exchange = "soft_labels"
models = ["cnn_small", { name = "cnn_medium", memory_mib = 10 }]
soft_labels = { public = { holdout = 40 } }
[data.cells]
format = "sklearn"
name = "breast_cancer"
[data.pixels]
format = "sklearn"
name = "digits"
[partition]
default = { kind = "iid" }
[sites.north]
memory_mib = 100
[sites.south]
subtasks = ["tumour"]
"""


def changed(*assignments: str) -> Collaboration:
    """The file above with these keys set."""
    return parse(override(parse_toml(TEXT, "case.toml"), assignments), "case.toml")
