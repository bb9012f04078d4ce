"""Noise grids and whole trajectories of the reference schedulers."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from common import ROOT, write_json


def field(x, sigma):
    return torch.tanh(x) * (0.3 + sigma) - 0.2 * x + 0.1


def run(scheduler, start):
    x, states = start, []
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(field(x, scheduler.sigmas[i]), t, x, return_dict=False)[0]
        states.append(x[0].double().tolist())
    return states


def entry(kind, reference, steps, shift, scheduler):
    start = torch.tensor([[0.7, -1.3, 0.05]])
    return {
        "kind": kind,
        "reference": reference,
        "steps": steps,
        "shift": shift,
        "sigmas": scheduler.sigmas.double().tolist(),
        "timesteps": scheduler.timesteps.double().tolist(),
        "start": start[0].double().tolist(),
        "trajectory": run(scheduler, start),
    }


def unipc(shift):
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift
    )


def make():
    entries = []
    for steps, shift in [(5, 3.0), (8, 5.0), (40, 12.0)]:
        scheduler = unipc(shift)
        scheduler.set_timesteps(steps)
        entries.append(entry("unipc", "diffusers", steps, shift, scheduler))
        euler = FlowMatchEulerDiscreteScheduler(shift=shift)
        euler.set_timesteps(steps)
        entries.append(entry("euler", "diffusers", steps, shift, euler))
    write_json(ROOT / "schedulers.json", entries)
