"""Look at a text table and guess what a data block would say about it: for ``consilium init``."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

from collab.data import csv_file
from collab.data.column_profile import Profile, profile
from collab.data.config import DataConfig
from collab.data.limits import MAX_CATEGORIES
from collab.data.site_names import site_names
from collab.data.targets import canonical, infer_labels
from collab.plugins import unknown
from protocol.errors import ConfigError, DataError

SEPARATORS: Final = ",;\t|"
_LINES_TO_GUESS_FROM: Final = 50
_MOST_CLASSES: Final = 20
_FEW_ROWS: Final = 20


@dataclass(frozen=True)
class Inspection:
    """What was found; a person corrects it in the file that ``draft.write_toml`` writes.

    Attributes:
        header: whether the first line names the columns; if not they are column_1, column_2, ...
        missing: cells that mean "not known", beside empty ones.
        has_gaps: whether any feature has missing cells. target_has_gaps: whether the target has.
        labels: the classes, empty for a regression.
        drop: columns that are no features: identifiers, free text, a single value.
        codes: whole-numbered features with few values, which may be categories in disguise.
        group: a column such as a patient's number whose rows must stay together.
        sites: their names; ``site`` is the column that says which, None = dealt out at random.
        repeated_rows: rows whose like stands at another site, or anywhere if there is no site column.
        warnings: sentences for the person, without cells.
    """

    path: Path
    separator: str
    header: bool
    columns: tuple[str, ...]
    rows: int
    missing: tuple[str, ...]
    has_gaps: bool
    target: str
    target_has_gaps: bool
    kind: Literal["tabular_classification", "tabular_regression"]
    labels: tuple[str, ...]
    categorical: tuple[str, ...]
    codes: tuple[str, ...]
    drop: tuple[str, ...]
    group: str | None
    site: str | None
    sites: tuple[str, ...]
    repeated_rows: int
    warnings: tuple[str, ...]


def inspect(path: Path, target: str, site_column: str | None = None, sites: int | None = None) -> Inspection:
    """Read the whole table and return what its columns seem to be.

    Args:
        path: a UTF-8 text table.
        target: the column to predict.
        site_column: the column that names each row's site.
        sites: without such a column, how many sites to deal the rows out to; 3 if None.

    Raises:
        DataError: the file is no table, has no such column, or the target is no target.
        ConfigError: both ``site_column`` and ``sites`` are given, or fewer than two sites.
    """
    if site_column is not None and sites is not None:
        raise ConfigError("give either a site column or a number of sites, not both")
    if not path.is_file():
        raise DataError(f"data file '{path}' is missing")
    config = _layout(path, target)
    columns = csv_file.column_names(path, config)
    for name in (target, *([] if site_column is None else [site_column])):
        if name not in columns:
            raise DataError(f"{path.name}: " + unknown(f"column '{name}'", name, columns[:100]))
    frame = csv_file.read_frame(path, config, columns, ()).fillna("").apply(lambda column: column.str.strip())
    profiles = {name: profile(name, frame[name]) for name in columns}
    return _findings(path, config, frame, profiles, site_column, sites or 3)


def _layout(path: Path, target: str) -> DataConfig:
    """Guess separator and header; the result reads the file but knows no roles yet."""
    csv_file.header(path, ",")  # refuses what is no text before more is read
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = [line for line, _ in zip(file, range(_LINES_TO_GUESS_FROM), strict=False) if line.strip()]
    separator = max(SEPARATORS, key=lambda candidate: _evenness(lines, candidate))
    first, _ = csv_file.header(path, separator)
    if target in first or not any(_is_number(cell) for cell in first):
        return DataConfig(format="csv", path=str(path), separator=separator, target=target)
    names = tuple(f"column_{i}" for i in range(1, len(first) + 1))
    return DataConfig(
        format="csv", path=str(path), separator=separator, header=False, columns=names, target=target
    )


def _evenness(lines: list[str], separator: str) -> tuple[float, int]:
    """Rank a separator: the share of lines that it cuts into equally many cells, then how many."""
    widths = Counter(len(row) for row in csv.reader(lines, delimiter=separator))
    width, count = max(widths.items(), key=lambda item: (item[1], item[0]))
    return (count / len(lines) if width > 1 else 0.0, width)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _findings(
    path: Path,
    config: DataConfig,
    frame: pd.DataFrame,
    profiles: dict[str, Profile],
    site: str | None,
    sites: int,
) -> Inspection:
    target = str(config.target)
    candidates = [p for name, p in profiles.items() if name not in (target, site)]
    groups = [p for p in candidates if p.is_named_id and not p.is_constant and p.distinct < p.known]
    group = groups[0].name if groups else None
    drop = [p for p in candidates if p.name != group and _is_no_feature(p)]
    features = [p for p in candidates if p.name != group and p not in drop]
    if not features:
        raise DataError(f"{path.name}: no column is left to predict '{target}' from")
    kind, labels = _task(path, frame[target], profiles[target])
    alike = frame.drop(columns=[p.name for p in drop] + [name for name in (group, site) if name])
    found = Inspection(
        path=path,
        separator=config.separator,
        header=config.header,
        columns=tuple(profiles),
        rows=len(frame),
        missing=tuple(sorted({marker for p in (*features, profiles[target]) for marker in p.markers})),
        has_gaps=any(p.known < p.rows for p in features),
        target=target,
        target_has_gaps=profiles[target].known < len(frame),
        kind=kind,
        labels=labels,
        categorical=tuple(p.name for p in features if not p.is_number),
        codes=tuple(p.name for p in features if p.is_number and p.is_whole and 3 <= p.distinct <= 8),
        drop=tuple(p.name for p in drop),
        group=group,
        site=site,
        sites=_sites(path, frame, profiles, site, sites),
        repeated_rows=_repeated(alike, None if site is None else frame[site]),
        warnings=(),
    )
    return replace(found, warnings=_warnings(found, frame, drop))


def _is_no_feature(p: Profile) -> bool:
    many = not p.is_number and p.distinct > MAX_CATEGORIES
    return p.is_named_id or p.is_unique or p.is_free_text or p.is_constant or many


def _task(
    path: Path, cells: pd.Series[str], p: Profile
) -> tuple[Literal["tabular_classification", "tabular_regression"], tuple[str, ...]]:
    if p.is_constant:
        raise DataError(f"{path.name}: target '{p.name}' has one class only: there is nothing to learn")
    if p.is_number and (p.distinct > _MOST_CLASSES or not p.is_whole):
        return "tabular_regression", ()
    if p.is_free_text or p.is_unique:
        raise DataError(f"{path.name}: target '{p.name}' differs in nearly every row: is it an identifier?")
    known = [canonical(cell) for cell in cells if cell and cell not in p.markers]
    return "tabular_classification", infer_labels(np.array(known, dtype=object))


def _sites(
    path: Path, frame: pd.DataFrame, profiles: dict[str, Profile], site: str | None, sites: int
) -> tuple[str, ...]:
    if site is None:
        if not 2 <= sites <= len(frame) // 10:
            raise ConfigError(
                f"{len(frame)} rows can be dealt out to 2 to {len(frame) // 10} sites, not {sites}"
            )
        return tuple(f"site-{i}" for i in range(1, sites + 1))
    p = profiles[site]
    if p.distinct < 2 or p.is_free_text or p.is_unique or p.distinct > MAX_CATEGORIES:
        raise DataError(
            f"{path.name}: column '{site}' has {p.distinct} different cells: it cannot name sites"
        )
    if p.known < p.rows:
        raise DataError(f"{path.name}: column '{site}' is empty in {p.rows - p.known} rows")
    cells = np.array([canonical(cell) for cell in frame[site]], dtype=object)
    return tuple(sorted(set(site_names(cells, f"{path.name}, {site}").tolist())))


def _repeated(content: pd.DataFrame, site: pd.Series[str] | None) -> int:
    """Count rows whose content, without identifiers, stands at another site (or anywhere) as well."""
    if site is None:
        return int(content.duplicated(keep=False).sum())
    row = pd.util.hash_pandas_object(content, index=False)
    return int((site.groupby(row).transform("nunique") > 1).sum())


def _warnings(found: Inspection, frame: pd.DataFrame, drop: list[Profile]) -> tuple[str, ...]:
    said = [f"column '{p.name}' is left out: {_why(p)}" for p in drop]
    if found.group is not None:
        said.append(
            f"column '{found.group}' looks like an identifier that repeats: its rows are kept together"
        )
    if found.repeated_rows:
        where = "at more than one site" if found.site else "more than once and can fall to different sites"
        said.append(
            f"{found.repeated_rows} rows stand {where}: if one trains and its twin tests, the result flatters"
        )
    if found.target_has_gaps:
        said.append(f"the target '{found.target}' is missing in some rows: all rows with gaps are left out")
    if found.site is not None:
        small = int((frame[found.site].value_counts() < _FEW_ROWS).sum())
        said += [f"{small} site(s) have fewer than {_FEW_ROWS} rows"] if small else []
    rare = int((frame[found.target].value_counts() < 10).sum()) if found.labels else 0
    said += [f"{rare} class(es) have fewer than 10 rows"] if rare else []
    return tuple(said)


def _why(p: Profile) -> str:
    if p.is_constant:
        return "all its cells are alike"
    if p.is_named_id or p.is_unique:
        return "it looks like an identifier"
    return f"it is text with {p.distinct} different cells"
