"""Write the collaboration file that an inspection suggests: commented, and ready to run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from collab.data.inspect_csv import Inspection
from collab.data.site_names import site_name

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def write_toml(found: Inspection, *, name: str | None = None, data_path: str | None = None) -> str:
    """Return the text of a collaboration file, valid TOML.

    Args:
        found: what ``inspect`` found.
        name: of the collaboration; the data file's if None.
        data_path: how the file shall name the data; its absolute path if None.
    """
    subtask = _key(site_name(found.target))
    blocks = [
        _head(found, name or site_name(found.path.stem)),
        _subtask(found, subtask),
        _data(found, subtask, data_path or str(found.path.resolve())),
        _partition(found),
        _sites(found),
    ]
    return "\n\n".join(blocks) + "\n"


def _head(found: Inspection, name: str) -> str:
    notes = [
        f"# Drafted from {_comment(found.path.name)}: {found.rows} rows, {len(found.sites)} sites.",
        "# Read the lines marked CHECK: they are guesses.",
        *(f"# CHECK: {_comment(warning)}" for warning in found.warnings),
    ]
    return "\n".join([*notes, f"name = {_text(name)}", "seed = 7", "rounds = 10"])


def _subtask(found: Inspection, subtask: str) -> str:
    is_class = found.kind == "tabular_classification"
    metric = '"log_loss"  # or accuracy, auroc, ...' if is_class else '"rmse"  # or mae, r2'
    lines = [
        f"[subtasks.{subtask}]",
        f'kind = "{found.kind}"',
        f"data = {_text(site_name(found.target))}",
        *([f"labels = {_texts(found.labels)}"] if is_class else []),
        f"metric = {metric}; this one decides",
        'exchange = "weights"  # what sites give: weights of one model, or soft_labels over a public set',
        'models = ["mlp_small"]  # or linear, or mlp_medium',
    ]
    return "\n".join(lines)


def _data(found: Inspection, subtask: str, data_path: str) -> str:
    lines = [f"[data.{subtask}]", 'format = "csv"', f"path = {_text(data_path)}"]
    if found.separator != ",":
        lines.append(f"separator = {_text(found.separator)}")
    if not found.header:
        lines += ["header = false", f"columns = {_texts(found.columns)}  # CHECK: name them"]
    if found.missing:
        lines.append(f"missing = {_texts(found.missing)}  # cells that mean: not known")
    if found.target_has_gaps:
        lines.append('missing_rows = "drop"')
    elif found.has_gaps:
        lines.append('missing_rows = "impute"  # by the mean over all sites; or "drop" rows with gaps')
    lines += [f"target = {_text(found.target)}", 'features = "all"  # that have no other role']
    lines.append(f"categorical = {_texts(found.categorical)}")
    if found.codes:
        lines.append(f"# CHECK: numbers with few values; categories too? {_comment(_texts(found.codes))}")
    if found.drop:
        lines.append(f"drop = {_texts(found.drop)}  # CHECK")
    if found.site is not None:
        lines.append(f"site = {_text(found.site)}")
    group = f", group = {_text(found.group)}" if found.group is not None else ""
    lines.append(f"split = {{ test = 0.2, validation = 0.15{group} }}  # of each site's rows")
    return "\n".join(lines)


def _partition(found: Inspection) -> str:
    if found.site is not None:
        return '[partition]\ndefault = { kind = "column" }  # the column `site` above says whose a row is'
    return (
        "[partition]  # how the rows are dealt out to the sites below\n"
        'default = { kind = "iid" }  # or { kind = "quantity", skew = 0.6 }'
        + (', { kind = "dirichlet", alpha = 0.3 }' if found.labels else "")
    )


def _sites(found: Inspection) -> str:
    head = "# What the simulated clock and the allocator see of each site.\n"
    return head + "\n".join(
        f"[sites.{_key(site)}]\nmemory_mib = 4096\nexamples_per_s = 1000\nbandwidth_mbit = 100"
        for site in found.sites
    )


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _text(value: str) -> str:
    # A JSON string is a TOML basic string but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(values: Sequence[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"


def _comment(text: str) -> str:
    """Nothing but the line's end closes a comment."""
    return "".join(character if character.isprintable() else " " for character in text)
