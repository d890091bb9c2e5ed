"""Before the first round: who is there, what they have, one preprocessing, one model a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from collab.collaboration import Collaboration, models_of
from collab.data.preprocess import Preprocessing, merge
from collab.decomposition.chain import input_shape
from collab.models.contract import build, memory_mib, to_arrays
from collab.plugins import load
from collab.rng import derive
from collab.soft_labels import contract as soft_labels
from collab.terms import ModelChoice, SubtaskTerms
from protocol.arrays import digest, num_bytes
from protocol.errors import ConfigError, ConsiliumError, MessageError, RunError
from protocol.messages import Capability, DataSummary, Subtask, SubtaskQuery, Trial
from protocol.records import pack
from server.courier import Arrival, Courier, Letter, Patience, gather
from server.data_summaries import open_summaries
from server.description import describe
from server.gate import NO_CAPS

_ASK_S = 600.0
# What a site takes that hardly moves at all; events hold no infinity.
_ENDLESS_S = 1e12


@dataclass(frozen=True)
class Prepared:
    """What the server knows of one subtask before its first round.

    ``models`` is the model that each able site will hold, ``fusion`` the rule at the end;
    ``public`` is preprocessed [N, ...], ``public_raw`` the same images or table as numbers before
    preprocessing (for an imported teacher), ``root`` preprocessed inputs and targets of the server's own;
    ``max_examples`` the most rows that a site may say it has, where the roster gives it.
    """

    subtask: Subtask
    summaries: Mapping[str, DataSummary]
    models: Mapping[str, str]
    model_mib: Mapping[str, float]
    fusion: str = "own_pool"
    public: NDArray[np.float32] | None = field(default=None, repr=False)
    public_raw: NDArray[np.float32] | None = field(default=None, repr=False)
    root: tuple[NDArray[np.float32], NDArray[Any]] | None = field(default=None, repr=False)
    max_examples: Mapping[str, int] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have the subtask and hold a model for it, in order of name."""
        return tuple(sorted(self.models))

    @property
    def class_counts(self) -> NDArray[np.float64]:
        """Train rows a class over all sites, as far as their egress rules tell; empty for a regression."""
        counts = [np.asarray(self.summaries[s].class_counts) for s in self.sites]
        return np.sum(counts, axis=0) if counts else np.zeros(0)

    def fresh_arrays(self, model: str) -> dict[str, NDArray[np.float32]]:
        """Return the parameters from which every party of this seed starts ``model``."""
        return to_arrays(self.module(model))

    def module(self, model: str) -> nn.Module:
        """Return ``model`` with the parameters from which every party of this seed starts."""
        seed = derive(self.subtask.seed, self.subtask.name, model, "initial")
        return build(model, input_shape(self.subtask), self.subtask.outputs, seed)


def ask(courier: Courier, letters: Sequence[Letter], notes: list[str]) -> list[Arrival]:
    """Send letters of the preparation and return the answers; note the sites that gave none."""
    found, _ = gather(courier, letters, Patience(_ASK_S))
    silent = {(x.site, x.about) for x in letters} - {(a.letter.site, a.letter.about) for a in found}
    notes.extend(f"{site}: no answer about {about} in {_ASK_S:.0f} s" for site, about in sorted(silent))
    return found


def prepare(
    courier: Courier,
    collaboration: Collaboration,
    capabilities: Mapping[str, Capability],
    notes: list[str],
    max_examples: Mapping[str, int] = NO_CAPS,
) -> dict[str, Prepared]:
    """Merge the statistics of each subtask's sites and choose each site's model.

    A site whose answer cannot be used is left out of that subtask, and ``notes`` says so under its name.

    Raises:
        RunError: a subtask is left with no site.
        ConfigError: two modalities of a whole have a column in common.
    """
    prepared = {
        name: _prepare_one(courier, collaboration, name, capabilities, notes, max_examples)
        for name in sorted(collaboration.subtasks)
    }
    check_modalities(prepared)
    return prepared


def check_modalities(prepared: Mapping[str, Prepared]) -> None:
    """Raise a ``ConfigError`` if two modalities' patterns meet in a column of real sites: it counts twice."""
    owners: dict[tuple[str, str], str] = {}
    for name, one in prepared.items():
        part = one.subtask.part
        if part is None or not part.columns:
            continue
        fitted = Preprocessing.model_validate_json(str(one.subtask.preprocessing))
        for column in (*fitted.numeric_names, *fitted.categorical_names):
            owner = owners.setdefault((part.whole, column), name)
            if owner != name:
                raise ConfigError(f"column '{column}' is a part of {owner} and of {name}: name it in one")


def _prepare_one(
    courier: Courier,
    collaboration: Collaboration,
    name: str,
    capabilities: Mapping[str, Capability],
    notes: list[str],
    max_examples: Mapping[str, int],
) -> Prepared:
    terms = collaboration.subtasks[name]
    subtask = describe(collaboration, name)
    sites = [site for site, c in sorted(capabilities.items()) if name in c.subtasks]
    query = pack(SubtaskQuery(subtask=subtask))
    arrivals = ask(courier, [Letter(s, "query.summary", query, name) for s in sites], notes)
    summaries, statistics = open_summaries(arrivals, subtask, notes, max_examples)
    if not summaries:
        said = "; ".join(notes[-3:]) or "no site has its data"
        raise RunError(f"subtask '{name}': no site can take part: {said}")
    subtask = subtask.model_copy(
        update={"preprocessing": Preprocessing.fit(merge(statistics)).model_dump_json()}
    )
    prepared = Prepared(subtask, summaries, {}, _memories(terms, subtask), max_examples=max_examples)
    memory = {site: capabilities[site].memory_mib for site in summaries}
    models = _choose(courier, terms, prepared, memory, notes)
    sharing = {site: capabilities[site].shares_models for site in models}
    _check_sharing(terms, name, sharing)
    if terms.personal is not None and terms.personal.keeps_layers:
        sharing = dict.fromkeys(sharing, False)  # a model without its layers is no candidate
    fusion = _fusion_rule(collaboration.fusion_of(name).rule, name, sharing)
    if not any(summary.validation for summary in summaries.values()):
        fusion = _without_validation(terms, collaboration.fusion_of(name).rule, name, notes)
    return replace(prepared, models=models, fusion=fusion)


def _check_sharing(terms: SubtaskTerms, subtask: str, sharing: Mapping[str, bool]) -> None:
    """Refuse a soft-label rule that needs all models where a site keeps its own.

    Raises:
        ConfigError: it would fail in the first round.
    """
    keeping = sorted(site for site, shares in sharing.items() if not shares)
    rule = terms.soft_labels.combine.rule if terms.exchange == "soft_labels" and terms.soft_labels else None
    if rule is not None and "shared_models" in soft_labels.needs(load("soft_labels", rule)) and keeping:
        raise ConfigError(
            f"soft_labels '{rule}' of subtask '{subtask}' needs shared models, but these sites keep theirs: "
            f"{', '.join(keeping)}; use combine = 'class_counts', or let them allow [egress] models"
        )


def _fusion_rule(named: str | None, subtask: str, sharing: Mapping[str, bool]) -> str:
    """Return the rule that the file names, or the best that the sites' egress rules allow.

    Raises:
        ConfigError: the named rule needs models that a site does not let out.
    """
    keeping = sorted(site for site, shares in sharing.items() if not shares)
    if named is None:
        return "own_pool" if keeping else "least_squares"
    if keeping and "shared_models" in load("fusion", named).NEEDS:
        raise ConfigError(
            f"fusion '{named}' of subtask '{subtask}' needs shared models, but these sites keep theirs: "
            f"{', '.join(keeping)}; use rule = 'own_pool', or let the sites allow [egress] models"
        )
    return named


def _without_validation(terms: SubtaskTerms, named: str | None, subtask: str, notes: list[str]) -> str:
    """Return the fusion rule where no site has a validation row; refuse what needs one.

    Raises:
        ConfigError: a target, soft labels or a fitted fusion: each would be decided by nothing.
    """
    needy = {
        "a target": terms.target is not None,
        "exchange = 'soft_labels'": terms.exchange == "soft_labels",
        f"fusion '{named}'": named is not None and _is_fitted(named),
    }
    for what, is_wanted in needy.items():
        if is_wanted:
            raise ConfigError(f"subtask '{subtask}': {what} needs validation rows: set split.validation > 0")
    notes.append(f"{subtask}: no validation rows, so nothing is fused or stopped by them; fusion own_pool")
    return named or "own_pool"


def _is_fitted(rule: str) -> bool:
    """Return whether a fusion rule asks the sites for anything; a plain mean does not."""
    return bool(load("fusion", rule).STEPS)


def with_public(prepared: Prepared, public_NX: NDArray[np.float32]) -> Prepared:
    """Return ``prepared`` with the preprocessed public set, and its digest in the subtask."""
    subtask = prepared.subtask.model_copy(update={"public_digest": digest({"x": public_NX})})
    return replace(prepared, subtask=subtask, public=public_NX)


def predicted_seconds(prepared: Prepared, capability: Capability, epochs: float) -> float:
    """Predict one round of a subtask at a site: compute, and transfer both ways; 0 epochs: transfer alone."""
    site = capability.site
    rows = prepared.summaries[site].train
    if prepared.subtask.exchange == "weights":
        size = 2 * num_bytes(prepared.fresh_arrays(prepared.models[site]))
    else:
        size = 2 * 4 * prepared.subtask.outputs * (0 if prepared.public is None else len(prepared.public))
    seconds = rows * epochs / capability.examples_per_s + size * 8 / (capability.bandwidth_mbit * 1e6)
    return min(seconds, _ENDLESS_S)


def _memories(terms: SubtaskTerms, subtask: Subtask) -> dict[str, float]:
    shape = input_shape(subtask)
    return {
        choice.name: choice.memory_mib or memory_mib(build(choice.name, shape, subtask.outputs, 0))
        for choice in models_of(terms)
    }


def _choose(
    courier: Courier,
    terms: SubtaskTerms,
    prepared: Prepared,
    memory: Mapping[str, float],
    notes: list[str],
) -> dict[str, str]:
    """Give each site a model: by memory, or by validation among those that its memory admits.

    With weights all must hold the same, the largest that the memory of every able site admits, unless
    ``architectures = "own"``.
    """
    by_size = sorted(models_of(terms), key=lambda m: prepared.model_mib[m.name])
    admitted = {s: [m for m in by_size if prepared.model_mib[m.name] <= mib] for s, mib in memory.items()}
    able = {s: models for s, models in admitted.items() if models}
    notes.extend(
        f"{s}: no model of {prepared.subtask.name} fits into {memory[s]:.0f} MiB"
        for s in sorted(memory.keys() - able.keys())
    )
    if not able:
        raise RunError(f"subtask '{prepared.subtask.name}': no site has the memory for any of its models")
    if terms.exchange == "weights" and terms.architectures == "common":
        common = min((models for models in able.values()), key=len)
        able = {site: [m for m in models if m in common] for site, models in able.items()}
    if terms.select == "memory":
        return {site: models[-1].name for site, models in able.items()}
    return _by_validation(courier, terms, prepared, able, notes)


def _by_validation(
    courier: Courier,
    terms: SubtaskTerms,
    prepared: Prepared,
    able: Mapping[str, Sequence[ModelChoice]],
    notes: list[str],
) -> dict[str, str]:
    name = prepared.subtask.name
    letters = [
        Letter(
            s,
            "query.trial",
            pack(SubtaskQuery(subtask=prepared.subtask, models=tuple(m.name for m in ms))),
            name,
        )
        for s, ms in sorted(able.items())
    ]
    trials: dict[str, dict[str, float]] = {}
    for arrival in ask(courier, letters, notes):
        try:
            trial, _ = arrival.open(Trial)
            if set(trial.loss_sums) != {m.name for m in able[arrival.letter.site]}:
                raise MessageError("the trial is of other models")
            trials[arrival.letter.site] = trial.loss_sums
        except ConsiliumError as error:
            notes.append(f"{arrival.letter.site}: no trial of {name}: {error}")
    if not trials:
        raise ConfigError(f"subtask '{name}': select = 'validation', but no site could try its models")
    if terms.exchange != "weights" or terms.architectures == "own":
        return {site: min(losses, key=losses.__getitem__) for site, losses in trials.items()}
    totals: dict[str, float] = {}
    for losses in trials.values():
        for model, loss in losses.items():
            totals[model] = totals.get(model, 0.0) + loss
    best = min(totals, key=totals.__getitem__)
    return dict.fromkeys(able, best)
