"""The strategy of tables that are split over processes: the network is trained data parallel, rows are not copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.optimizer import _optimizer_to_device
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.optim import Optimizer

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, RowLayout, Shard
from pme_lightning.split_checkpoints import SplitTensor
from pme_lightning.whole_checkpoints import WholeCheckpoints


class ShardedStrategy(DDPStrategy):
    """DDP for what all tokens share; each process owns and steps the rows of a :class:`~pme_lightning.embedding.Shard`.

    Checkpoints hold tables and their optimizer's state as a whole, in one file that loads in any number of processes.
    No process ever has it in memory: the main one writes what the others send it, slice by slice. The name of the
    strategy is ``sharded``.
    """

    strategy_name = "sharded"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._checkpoint_io is None:
            self.checkpoint_io = WholeCheckpoints()

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Makes ``Trainer(strategy="sharded")`` known."""
        strategy_registry.register(cls.strategy_name, cls, description="DDP, with rows of tables split over processes")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Returns the module's state, with split parameters marked as such."""
        state = super().lightning_module_state_dict()
        for name, split in self._split().items():
            state[name] = split.of(state[name])
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the optimizer's state, with what it keeps of each value of split parameters marked as such."""
        state: dict[str, Any] = super().optimizer_state(optimizer)
        for number, split in self._numbered(optimizer).items():
            if number not in state["state"]:
                continue
            held = split.layout.held_shape(split.shard)
            # Made anew: the optimizer goes on with its own.
            state["state"][number] = {
                key: split.of(value) if isinstance(value, Tensor) and value.shape == held else value
                for key, value in state["state"][number].items()
            }
        return state

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Returns a checkpoint that is mapped, not read: of tables just this process's rows are brought to memory."""
        if not self._split() or not Path(checkpoint_path).is_file():
            return super().load_checkpoint(checkpoint_path, weights_only)
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=bool(weights_only))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives every optimizer this process's part of what the checkpoint holds."""
        for optimizer, whole in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            splits = self._numbered(optimizer)
            state = {number: _own(values, splits.get(number)) for number, values in whole["state"].items()}
            optimizer.load_state_dict(whole | {"state": state})
            _optimizer_to_device(optimizer, self.root_device)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; all processes take part."""
        if self._split() or self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def _split(self) -> dict[str, _Split]:
        """Returns the split parameters by their names."""
        embedding = getattr(self.lightning_module, "embedding", None)
        if not isinstance(embedding, (FullEmbedding, MultiSizeEmbedding)) or embedding.shard is None:
            return {}
        return {
            f"embedding.{name}": _Split(getattr(embedding, name), layout, embedding.shard)
            for name, layout in embedding.layouts.items()
        }

    def _numbered(self, optimizer: Optimizer) -> dict[int, _Split]:
        """Returns the split parameters by the numbers that the optimizer's state dict gives them."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        splits = {id(split.parameter): split for split in self._split().values()}
        return {n: splits[id(parameter)] for n, parameter in enumerate(parameters) if id(parameter) in splits}


class _Split:
    """A parameter of which every process holds some rows."""

    def __init__(self, parameter: nn.Parameter, layout: RowLayout, shard: Shard) -> None:
        self.parameter, self.layout, self.shard = parameter, layout, shard

    def of(self, held: Tensor) -> SplitTensor:
        """Marks a tensor that is split as the parameter is."""
        return SplitTensor(held.detach(), self.layout, self.shard)


def _own(values: dict[str, Any], split: _Split | None) -> dict[str, Any]:
    """Returns copies of what an optimizer keeps of a parameter, cut where it is split: none may need the file later."""
    own = dict(values)
    for key, value in values.items():
        if isinstance(value, Tensor):
            cut = split is not None and value.shape == split.layout.shape
            own[key] = split.layout.cut(value, split.shard) if cut and split else value.clone()
    return own


if ShardedStrategy.strategy_name not in StrategyRegistry:
    ShardedStrategy.register_strategies(StrategyRegistry)
