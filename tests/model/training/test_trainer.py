import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn

from stmcdi_cli.errors import InputError
from stmcdi_cli.model.diffusion.loss import noise_loss
from stmcdi_cli.model.diffusion.samplers import sample
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.training.trainer import Trainer, Training


def test_paper_learning_rates():
    settings = Training(epochs=2000, batch_size=64, lr=6e-6, lr_drops=((0.5, 3e-7), (0.75, 6e-9)))
    rates = [settings.lr_at(epoch) for epoch in (0, 999, 1000, 1499, 1500, 1999)]
    assert rates == [6e-6, 6e-6, 3e-7, 3e-7, 6e-9, 6e-9]


def test_cosine_falls_to_zero():
    settings = Training(epochs=10, batch_size=1, lr=2.0, lr_schedule="cosine")
    assert settings.lr_at(0) == 2
    assert settings.lr_at(5) == pytest.approx(1)
    assert settings.lr_at(10) == pytest.approx(0)


def test_loss_is_about_targets_alone():
    schedule = Schedule()
    x_0, noise = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(4, 5)
    target[:, 1:3] = 1
    seen = {}

    def predict(x_t, t):
        seen["x_t"] = x_t
        return torch.zeros(4, 5)

    t = torch.tensor([1, 10, 30, 50])
    loss = noise_loss(predict, schedule, x_0, target, t, noise)
    assert loss.item() == pytest.approx(noise[:, 1:3].square().mean().item())
    assert (seen["x_t"][:, [0, 3, 4]] == 0).all()
    torch.testing.assert_close(seen["x_t"][:, 1:3], schedule.q_sample(x_0, t, noise)[:, 1:3])


def regression(settings, *, seed=0, validation=True, scale=1.0):
    """A trainer on a toy: predict a linear map under noise."""
    torch.manual_seed(5)
    network = nn.Linear(3, 1)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])

    def training_loss(network, items, generator):
        noise = 0.1 * torch.randn(len(items), 1, generator=generator)
        return scale * (network(x[items]) - y[items] - noise).square().mean()

    def validation_loss(network):
        return (network(x) - y).square().mean().item()

    return Trainer(network, training_loss, validation_loss if validation else None, 64, settings, seed=seed)


SETTINGS = Training(epochs=6, batch_size=10, lr=0.05, ema_decay=0.9, clip_norm=1.0)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_same_seed_same_network_whatever_the_global_generator():
    runs = []
    for disturb in (0, 1):
        trainer = regression(SETTINGS)
        torch.manual_seed(disturb)
        np.random.seed(disturb)
        trainer.run(lambda row: torch.rand(1))
        runs.append(weights(trainer))
    assert same(*runs)
    other = regression(SETTINGS, seed=1)
    other.run(lambda row: None)
    assert not same(runs[0], weights(other))


def test_a_resumed_training_ends_where_an_unbroken_one_does():
    unbroken = regression(SETTINGS)
    rows = []
    unbroken.run(rows.append)

    class Stop(Exception):
        pass

    broken = regression(SETTINGS)

    def stop(row):
        if row["epoch"] == 3:
            raise Stop

    with pytest.raises(Stop):
        broken.run(stop)
    state = copy.deepcopy(broken.state_dict())
    resumed = regression(SETTINGS, seed=99)
    resumed.load_state_dict(state)
    later = []
    resumed.run(later.append)
    assert later == rows[3:]
    assert same(weights(unbroken), weights(resumed))


def test_stops_early_and_says_so_with_the_best_weights_kept(caplog):
    settings = Training(epochs=500, batch_size=64, lr=0.3, patience=5)
    trainer = regression(settings)
    rows = []
    with caplog.at_level(logging.DEBUG, "stmcdi_cli"):
        trainer.run(rows.append)
    losses = [row["validation_loss"] for row in rows]
    assert len(rows) < 500
    assert len(rows) == 1 + int(np.argmin(losses)) + 5
    assert trainer.validation_loss(trainer.network) == min(losses)
    assert f"stopped early after epoch {len(rows)} of 500" in caplog.text


def test_without_validation_the_last_weights_are_kept():
    trainer = regression(Training(epochs=2, batch_size=10, lr=0.05), validation=False)
    rows = []
    trainer.run(rows.append)
    assert [set(row) for row in rows] == [{"epoch", "loss", "lr"}] * 2


def test_averaged_weights_are_smoother_than_the_weights():
    trainer = regression(Training(epochs=30, batch_size=4, lr=0.1, ema_decay=0.99), validation=False)
    trainer.run(lambda row: None)
    noisy = regression(Training(epochs=30, batch_size=4, lr=0.1), validation=False)
    noisy.run(lambda row: None)
    truth = torch.tensor([[1.0, -2.0, 0.5]])
    assert (trainer.network.weight - truth).norm() < (noisy.network.weight - truth).norm()


def test_divergence_is_one_clear_line():
    trainer = regression(SETTINGS, scale=float("nan"))
    with pytest.raises(InputError, match="diverged in epoch 1.*lower `lr`"):
        trainer.run(lambda row: None)


class TinyDenoiser(nn.Module):
    """Predicts noise from (x_t, condition, mask, t)."""

    def __init__(self, d, schedule, width=128):
        super().__init__()
        self.register_buffer("levels", torch.tensor(schedule.log_snr[1:], dtype=torch.float32))
        self.net = nn.Sequential(
            nn.Linear(3 * d + 5, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, d)
        )

    def forward(self, x_t, x_co, target, t):
        level = self.levels[t - 1][:, None]
        embedding = torch.cat([level / 4, *(torch.sigmoid(level - at) for at in (-3, -1, 1, 3))], 1)
        return x_t + self.net(torch.cat([x_t, x_co, target, embedding], 1))


def test_a_trained_network_samples_the_known_posterior(toy):
    """Algorithm 1 then Algorithm 2 on the Gaussian: random masks in training, one mask asked for afterwards."""
    schedule = Schedule()
    d = len(toy.covariance)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20_000, d, generator=generator) @ torch.tensor(
        np.linalg.cholesky(toy.covariance).T, dtype=torch.float32
    )
    torch.manual_seed(0)
    network = TinyDenoiser(d, schedule)

    def training_loss(network, items, generator):
        x_0 = data[items]
        hidden = torch.rand(len(items), 1, generator=generator)
        target = (torch.rand(len(items), d, generator=generator) < hidden).float()
        t = torch.randint(1, schedule.T + 1, (len(items),), generator=generator)
        noise = torch.randn(len(items), d, generator=generator)
        return noise_loss(lambda x_t, t: network(x_t, x_0 * (1 - target), target, t), schedule, x_0, target, t, noise)

    settings = Training(epochs=90, batch_size=500, lr=5e-3, lr_schedule="cosine", ema_decay=0.99, clip_norm=1.0)
    Trainer(network, training_loss, None, len(data), settings, seed=0).run(lambda row: None)

    observed = np.array([1.2, -0.7])
    mean, cov = toy.posterior(observed)
    n = 10_000
    target = torch.zeros(n, d)
    target[:, toy.target] = 1
    x_co = torch.zeros(n, d)
    x_co[:, toy.observed] = torch.tensor(observed, dtype=torch.float32)

    @torch.no_grad()
    def predict(x, t):
        return network(x, x_co, target, torch.full((n,), t))

    for sampler in ("ddpm", "dpm", "langevin"):
        x = sample(sampler, predict, schedule, toy.noise_of(n, d, torch.float32), target=target)
        x = x[:, toy.target].numpy()
        sd = np.sqrt(np.diag(cov))
        assert np.abs(x.mean(0) - mean).max() < 0.1, sampler
        assert np.abs(np.cov(x.T) - cov).max() / (sd.max() ** 2) < 0.18, sampler
