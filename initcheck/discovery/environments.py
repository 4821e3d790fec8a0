"""A stand-in for a reinforcement-learning environment: spaces with shapes, for constructors that take ``env``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_NAME = re.compile(r"(train_|test_|eval_|vec_|vector_|dummy_)?envs?")


def is_environment(name: str) -> bool:
    """Whether a parameter or variable of that name holds an environment."""
    return _NAME.fullmatch(name) is not None


class Box:
    """Floats of a shape, with the attributes of gym's space of that name (code asks for ``__class__.__name__``)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float32)
        self.low = np.full(shape, -1.0, np.float32)
        self.high = np.full(shape, 1.0, np.float32)

    def sample(self) -> Any:
        """A value of the space."""
        return np.zeros(self.shape, self.dtype)

    def __repr__(self) -> str:
        return f"Box{self.shape}"


class Discrete:
    """``n`` choices."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype(np.int64)
        self.nvec = np.array([n])

    def sample(self) -> Any:
        """A value of the space."""
        return 0

    def __repr__(self) -> str:
        return f"Discrete({self.n})"


Space = Box | Discrete


class Environment:
    """Spaces under all the names that single and vectorised environments give them."""

    def __init__(self, observation: Space, action: Space) -> None:
        self.observation_space = self.single_observation_space = observation
        self.action_space = self.single_action_space = action
        self.num_envs = 1
        self.unwrapped = self
        self.envs = [self]

    def __repr__(self) -> str:
        return f"environment({self.observation_space!r}, {self.action_space!r})"


def environment_for(code: str) -> Environment:
    """The environment that fits a class: pixels for convolutions, choices where its code asks for ``n``."""
    pixels = "Conv2d" in code
    last = re.search(r"shape\[-1\]|permute\(\(?0, 3, 1, 2|h, w, c = ", code) is not None
    box = ((64, 64, 3) if last else (4, 84, 84)) if pixels else (4,)
    discrete = re.search(r"action_space\.n\b|\.nvec|action_space\[0\]\.n\b", code) is not None
    return Environment(Box(box), Discrete(4 if pixels else 2) if discrete else Box((2,)))
