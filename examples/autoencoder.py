"""A convolutional autoencoder for 28x28 digits with a 32-dimensional code: clean.

The decoder ends in a sigmoid; its last layer keeps torch's default, which leaves the sigmoid in its linear range.
"""

import torch
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self, code_size=32):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, code_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_size, 32 * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(1, (32, 7, 7)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


def train(epochs=10, lr=1e-3):
    from torchvision import datasets, transforms

    digits = datasets.MNIST("data", download=True, transform=transforms.ToTensor())
    loader = torch.utils.data.DataLoader(digits, batch_size=128, shuffle=True)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for images, _ in loader:
            loss = nn.functional.mse_loss(model(images), images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    train()
