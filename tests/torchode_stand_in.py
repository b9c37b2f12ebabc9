"""What stands in for torchode where it is not installed: its methods, with the names that fastscore calls.

torchode declares an older typeguard than tyro takes, so that pip installs it beside the command line alone against its metadata,
and what is tested everywhere cannot rest on it. These are the published methods with the step control of Hairer,
Norsett and Wanner, "Solving Ordinary Differential Equations I", II.4, each sample with steps of its own; which numbers
torchode itself gives, tests/likelihood/test_log_prob.py says.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch


class ODETerm:
    def __init__(self, f):
        self.f = f


class _Method:
    """Of the slopes at ``a`` [S, ...] of a step: the new y by ``b``, and by ``e`` how far another order is from it."""

    def __init__(self, term):
        self.f = term.f

    def step(self, f, y, t, h):
        slopes, wide = [], h[:, None].to(y.dtype)

        def moved(weights):
            return wide * sum((w * k for w, k in zip(weights, slopes)), torch.zeros_like(y))

        for row in self.a:
            slopes.append(f(t + sum(row) * h, y + moved(row)))
        return y + moved(self.b), moved(self.e)


class Heun(_Method):
    order, a, b, e = 2, ((), (1,)), (1 / 2, 1 / 2), (-1 / 2, 1 / 2)


class Dopri5(_Method):
    order = 5
    b = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
    a = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        b,
    )
    e = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class Tsit5(_Method):
    """Tsitouras 2011, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption"."""

    order = 5
    b = (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774)
    a = (
        (),
        (0.161,),
        (0.327 - 0.3354806554923570, 0.3354806554923570),
        (0.9 - 4.362295432869581 + 6.359448489975075, -6.359448489975075, 4.362295432869581),
        (5.325864828439257, -11.74888356406283, 7.495539342889836, -0.09249506636175525),
        (5.861455442946420, -12.92096931784711, 8.159367898576159, -0.07158497328140100, -0.02826905039406838),
        b,
    )
    e = (
        -0.001780011052225777,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.4580821059291869,
        1 / 66,
    )


class IntegralController:
    def __init__(self, atol, rtol, term):
        self.atol, self.rtol = atol, rtol


class InitialValueProblem:
    def __init__(self, y0, t_start, t_end):
        self.y0, self.t_start, self.t_end = y0, t_start, t_end


class AutoDiffAdjoint:
    def __init__(self, method, controller, max_steps):
        self.method, self.control, self.max_steps = method, controller, max_steps

    def solve(self, problem):
        """ys [B, 1, D] at t_end; status [B], 0 of those that arrived; how many steps each took."""
        y, way = problem.y0, problem.t_end - problem.t_start
        sign, end, t = way.sign(), way.abs(), torch.zeros_like(way)
        self.f = lambda t, y: sign[:, None].to(y.dtype) * self.method.f(problem.t_start + sign * t, y)
        h = self._first(y, t, end)
        taken = torch.zeros(len(y), dtype=torch.int64)
        for _ in range(self.max_steps):
            going = t < end
            if not bool(going.any()):
                break
            step = torch.minimum(h, end - t)
            new, error = self.method.step(self.f, y, t, step)
            ratio = self._norm(error, torch.maximum(y.abs(), new.abs()))
            accepted = going & (ratio <= 1)
            last = step == end - t
            t = torch.where(accepted, torch.where(last, end, t + step), t)
            y = torch.where(accepted[:, None], new, y)
            h = step * (0.9 * ratio.clamp_min(1e-38) ** (-1 / self.method.order)).clamp(0.2, 10)
            taken += going
        return SimpleNamespace(ys=y[:, None], status=(t < end).long(), stats={"n_steps": taken})

    def _norm(self, error, size):
        return (error / (self.control.atol + self.control.rtol * size)).square().mean(1).sqrt()

    def _first(self, y, t, end):
        """Of II.4: a hundredth of |y| / |f|, and what the second derivative allows."""
        f = self.f(t, y)
        size, slope = self._norm(y, y.abs()), self._norm(f, y.abs())
        h = torch.where((size < 1e-5) | (slope < 1e-5), 1e-6, 0.01 * size / slope)
        second = self._norm(self.f(t + h, y + h[:, None] * f) - f, y.abs()) / h
        most = torch.maximum(slope, second)
        other = torch.where(most <= 1e-15, (1e-3 * h).clamp_min(1e-6), (0.01 / most) ** (1 / self.method.order))
        return torch.minimum(torch.minimum(100 * h, other), end - t)
