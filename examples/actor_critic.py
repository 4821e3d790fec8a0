"""A PPO agent with a ``layer_init`` factory: orthogonal weights, a small policy head, a unit value head: clean.

The gain of sqrt(2) in front of tanh is the convention of reinforcement learning code, and harmless in two layers. The
policy head's gain of 0.01 makes the first policy nearly uniform, on purpose.
"""

import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


def layer_init(layer, std=np.sqrt(2), bias_const=0.0):
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, bias_const)
    return layer


class Agent(nn.Module):
    def __init__(self, envs):
        super().__init__()
        observations = int(np.prod(envs.single_observation_space.shape))
        self.critic = nn.Sequential(
            layer_init(nn.Linear(observations, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 1), std=1.0),
        )
        self.actor = nn.Sequential(
            layer_init(nn.Linear(observations, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, envs.single_action_space.n), std=0.01),
        )

    def forward(self, observation):
        return self.actor(observation), self.critic(observation)

    def act(self, observation):
        logits, value = self(observation)
        policy = Categorical(logits=logits)
        action = policy.sample()
        return action, policy.log_prob(action), value


if __name__ == "__main__":
    import gymnasium as gym

    envs = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 4)
    agent = Agent(envs)
    state, _ = envs.reset()
    print(agent.act(torch.as_tensor(state)))
