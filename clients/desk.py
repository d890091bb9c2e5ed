"""A desk: what a site needs to work on one subtask, its rows, its kind and its memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clients.reading import SiteRows
from clients.site import Site
from clients.state import SiteState
from collab.collaboration import named_kind
from collab.data.examples import Examples
from collab.data.preprocess import Preprocessing
from collab.decomposition import chain
from collab.kinds.contract import Kind
from collab.models.contract import build, from_arrays, to_arrays
from collab.personal import kept_local
from collab.progress import Tick, nothing
from collab.rng import derive
from collab.training import Rows, outputs
from protocol.arrays import Arrays, check, digest, spec_of
from protocol.errors import DataError, MessageError, UpstreamError
from protocol.messages import Subtask

Reply = dict[str, NDArray[Any]]

# The role of an upstream subtask's final model in a site's memory; its digest stands for its name there.
UPSTREAM = "upstream"


@dataclass(frozen=True)
class Desk:
    """What a site needs to work on one subtask: its rows, its kind and its memory.

    ``tick`` is told after each batch what share of the message's work is done, and may raise to stop it.
    """

    site: Site
    state: SiteState
    subtask: Subtask
    tick: Tick = nothing

    @property
    def kind(self) -> Kind:
        """The kind of the subtask."""
        return named_kind(self.subtask.kind)

    @property
    def preprocessing(self) -> Preprocessing:
        """The federated preprocessing that the server merged."""
        if self.subtask.preprocessing is None:
            raise MessageError(f"subtask '{self.subtask.name}' came without its preprocessing")
        return Preprocessing.model_validate_json(self.subtask.preprocessing)

    def raw(self) -> SiteRows:
        """Return the site's rows before preprocessing."""
        return self.site.custody.rows(self.subtask)

    def rows(self, examples: Examples) -> Rows:
        """Return preprocessed inputs and targets on the site's device.

        Where the subtask comes after others, what their final models say of the rows is part of the inputs.
        """
        self.upstream()  # refuses, where a model is not here, also what was made while it was

        def made() -> Rows:
            x = torch.as_tensor(self.inputs(examples)).to(self.site.device)
            return Rows(x, self.kind.target(examples.y).to(self.site.device))

        return self.site.keeper.derived(examples, ("rows", self.subtask.kind, *self._inputs_key()), made)

    def inputs(self, examples: Examples) -> NDArray[np.float32]:
        """Return what a model of the subtask reads of ``examples``, upstream outputs included.

        Raises:
            UpstreamError: upstream models are not here.
            DataError: the site's memory does not hold one of them, or a column is missing.
        """
        arrays = self.upstream()
        if arrays and (mib := chain.memory_mib(self.subtask, arrays)) > self.site.capability.memory_mib:
            raise DataError(
                f"subtask '{self.subtask.name}': an upstream model takes {mib:.0f} MiB to predict"
            )
        return chain.inputs(self.subtask, lambda _: examples, arrays, self.site.device)

    def _inputs_key(self) -> tuple[Hashable, ...]:
        """Return all that inputs depend on beside the rows: an upstream model's arrays by their digest."""
        preprocessing = sha256((self.subtask.preprocessing or "").encode()).hexdigest()
        site = self.site
        return preprocessing, self.subtask.upstream, str(site.device), site.capability.memory_mib

    def upstream(self) -> dict[str, Mapping[str, NDArray[Any]]]:
        """Return the arrays of the upstream models that are kept here and are those that the server means."""
        found = {}
        for one in self.subtask.upstream:
            kept = self.state.get(one.name, UPSTREAM)
            if kept is not None and one.settled is not None and kept.model == one.settled.digest:
                found[one.name] = kept.arrays
        missing = [one.name for one in self.subtask.upstream if one.name not in found]
        if missing:
            raise UpstreamError(
                f"subtask '{self.subtask.name}': no final model of {', '.join(missing)} here: send it along"
            )
        return found

    def upstream_cost(self, num_rows: int) -> int:
        """Return the work of upstream models on so many rows, in training examples: a third of one each."""
        return -(-num_rows * len(self.subtask.upstream) // 3)

    def keep_upstream(self, arrays: Arrays) -> None:
        """Check and keep upstream models that came with a message, as ``SUBTASK/NAME``.

        Raises:
            MessageError: some are of no subtask that this one comes after.
            UpstreamError, ArraysError: see ``chain.check_arrays``.
        """
        given: dict[str, Reply] = {}
        for key, array in arrays.items():
            name, _, rest = key.partition("/")
            given.setdefault(name, {})[rest] = array
        known = {one.name: one for one in self.subtask.upstream}
        for name, own in given.items():
            if name not in known:
                raise MessageError(f"subtask '{self.subtask.name}' does not come after the models sent along")
            chain.check_arrays(known[name], self.subtask, own)
            self.state.put(name, digest(own), own, role=UPSTREAM)

    def public(self) -> torch.Tensor:
        """Return the preprocessed public set; refuse one that differs from the server's."""
        examples = self.site.custody.public(self.subtask)

        def made() -> tuple[torch.Tensor, str]:
            x = self.preprocessing.transform(examples)
            return torch.as_tensor(x).to(self.site.device), digest({"x": x})

        x, found = self.site.keeper.derived(examples, ("public", *self._inputs_key()), made)
        if found != self.subtask.public_digest:
            raise DataError(f"subtask '{self.subtask.name}': the public set here differs from the server's")
        return x

    def fresh(self, name: str) -> nn.Module:
        """Return the model ``name`` with the parameters that every site of this seed starts from."""
        seed = derive(self.subtask.seed, self.subtask.name, name, "initial")
        shape = chain.input_shape(self.subtask)
        return build(name, shape, self.subtask.outputs, seed).to(self.site.device)

    def model(self, name: str, arrays: Arrays) -> nn.Module:
        """Return the model ``name`` holding ``arrays``, which are checked first."""
        module = self.fresh(name)
        check(arrays, spec_of(to_arrays(module)))
        from_arrays(module, arrays)
        return module

    def with_own_layers(self, name: str, arrays: Arrays) -> Arrays:
        """Return shared arrays, completed by the layers that this site keeps for itself.

        A site that has not trained yet has the layers that every site of this seed starts from.
        """
        personal = self.subtask.personal
        if personal is None or not personal.keeps_layers:
            return arrays
        module = self.fresh(name)
        names = self.kept_names(module)
        kept = self.state.get(self.subtask.name)
        own = kept.arrays if kept and kept.model == name else to_arrays(module)
        return {**arrays, **{n: own[n] for n in names}}

    def kept_names(self, module: nn.Module) -> frozenset[str]:
        """Return the names of the arrays of ``module`` that never leave this site."""
        personal = self.subtask.personal
        return frozenset() if personal is None else kept_local(module, personal.rule)

    def current(self, name: str) -> nn.Module:
        """Return the site's own model, digested if it has digested since, or a fresh one."""
        kept = self.state.get(self.subtask.name, "digested") or self.state.get(self.subtask.name)
        return self.model(name, kept.arrays) if kept and kept.model == name else self.fresh(name)


def raw_outputs(desk: Desk, module: nn.Module, rows: Rows) -> NDArray[np.float64]:
    """Return probabilities [N, C] or predictions [N, 1] on ``rows``."""
    return desk.kind.predict(outputs(module, rows.x))
