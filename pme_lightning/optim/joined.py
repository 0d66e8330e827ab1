"""Several optimizers, each with parameters of its own, that look like one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

StateDict = dict[str, Any]


class JoinedOptimizer(Optimizer):
    """Steps several optimizers together, as one :class:`torch.optim.Optimizer`.

    Lightning's automatic optimization, learning rate schedulers, gradient clipping and checkpoints know one optimizer
    a model. The optimizers stay whole: parameter groups are the very objects of theirs, ``state`` reads and writes
    theirs, and ``state_dict`` has the layout of a single optimizer with all groups one after the other. A closure is
    called once for all of them. ``defaults`` holds the options that all of them have, by the values of the first.

    With a ``GradScaler`` the gradients are unscaled, and the step is left out where one of them is not finite, before
    any of the optimizers runs, fused ones included: clipping and callbacks see the gradients as they are.

    The idea is that of torchrec's ``CombinedOptimizer``, without its keys.

    Args:
        optimizers: The optimizers, at least one. They belong to this one from now on.

    Raises:
        ValueError: There are none, two of them have the same parameter, or one calls the model in its steps (LBFGS).
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        if not self.optimizers:
            raise ValueError("there is no optimizer to join")
        for optimizer in self.optimizers:
            closure = inspect.signature(optimizer.step).parameters.get("closure")
            if closure is not None and closure.default is inspect.Parameter.empty:
                raise ValueError(f"{type(optimizer).__name__} calls the model in its steps: it trains all or nothing")
        shared = set.intersection(*(set(optimizer.defaults) for optimizer in self.optimizers))
        defaults = {key: value for key, value in self.optimizers[0].defaults.items() if key in shared}
        super().__init__(self._groups(), defaults)
        self.state = _States(self.optimizers)  # type: ignore[assignment]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Steps every optimizer.

        Args:
            closure: Computes gradients and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters to the first of the optimizers."""
        super().add_param_group(param_group)  # refuses a parameter that any of them has already
        if all(param_group is not group for group in self._groups()):
            self.optimizers[0].add_param_group(param_group)
            self._regroup()

    def state_dict(self) -> StateDict:
        """Returns the state of all optimizers, in the layout of a single one."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        joined: StateDict = {"state": {}, "param_groups": []}
        start = 0
        for optimizer in self.optimizers:
            own = optimizer.state_dict()
            joined["state"] |= {start + number: state for number, state in own["state"].items()}
            for group in own["param_groups"]:
                joined["param_groups"].append(group | {"params": [start + number for number in group["params"]]})
            start += sum(len(group["params"]) for group in own["param_groups"])
        for after in self._optimizer_state_dict_post_hooks.values():
            joined = after(self, joined) or joined
        return joined

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Gives every optimizer its part of what :meth:`state_dict` returned.

        Raises:
            ValueError: It was returned for other parameter groups.
        """
        state_dict = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        groups, states = list(state_dict["param_groups"]), state_dict["state"]
        found = [len(group["params"]) for group in groups]
        wanted = [len(group["params"]) for group in self._groups()]
        if found != wanted:
            raise ValueError(
                f"the state is of an optimizer with parameter groups of {found} parameters, this one has {wanted}: "
                "were the same optimizers joined then?"
            )
        for optimizer in self.optimizers:
            own, groups = groups[: len(optimizer.param_groups)], groups[len(optimizer.param_groups) :]
            numbers = [number for group in own for number in group["params"]]
            state = {number: states[number] for number in numbers if number in states}
            optimizer.load_state_dict({"state": state, "param_groups": own})
        self._regroup()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.state = _States(self.optimizers)  # type: ignore[assignment]
        self.param_groups = self._groups()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.optimizers))})"

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _regroup(self) -> None:
        # In place: Lightning hands out wrappers that would keep a new list to themselves.
        self.param_groups[:] = self._groups()


class _States(MutableMapping[Any, Any]):
    """The state of each parameter, where the optimizer that has the parameter keeps it.

    Optimizers never see each other's states: some take their first step by whether they have any.
    """

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self._optimizers = optimizers

    def __getitem__(self, parameter: Any) -> Any:
        return self._home(parameter)[parameter]

    def __setitem__(self, parameter: Any, state: Any) -> None:
        self._home(parameter)[parameter] = state

    def __delitem__(self, parameter: Any) -> None:
        del self._home(parameter)[parameter]

    def __iter__(self) -> Iterator[Any]:
        for optimizer in self._optimizers:
            yield from optimizer.state

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self._optimizers)

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in optimizer.state for optimizer in self._optimizers)

    def get(self, parameter: Any, default: Any = None) -> Any:
        """Returns a parameter's state without making one."""
        if parameter not in self:
            return default
        return self[parameter]

    def _home(self, parameter: Any) -> Any:
        for optimizer in self._optimizers:
            own = (each for group in optimizer.param_groups for each in group["params"])
            if parameter in optimizer.state or any(parameter is each for each in own):
                return optimizer.state
        raise KeyError(parameter)
