"""Noise grids and whole trajectories of the reference schedulers.

`reference` says whose grid it is: `diffusers` is the scheduler's own grid; for `wan` the levels of
the original Wan code are handed to the scheduler of diffusers.
"""

import numpy
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

import common
from common import write_lines

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}
GRIDS = [(5, 3.0), (5, 5.0), (8, 5.0), (8, 12.0), (40, 3.0), (40, 5.0), (40, 12.0)]


def field(x, sigma):
    """A velocity that is neither linear nor constant in time."""
    return torch.tanh(x) * (0.3 + sigma) - 0.2 * x + 0.1


def run(scheduler, start):
    """The sample after every step."""
    x, states = start, []
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(field(x, scheduler.sigmas[i]), t, x, return_dict=False)[0]
        states.append(x[0].double().tolist())
    return states


def entry(kind, reference, steps, shift, scheduler):
    """Grid and trajectory of one scheduler."""
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
    """The scheduler of the Wan pipelines."""
    return UniPCMultistepScheduler(flow_shift=shift, **FLOW)


def diffusers_grids(steps, shift):
    """Schedulers with their own grids."""
    scheduler = unipc(shift)
    scheduler.set_timesteps(steps)
    yield entry("unipc", "diffusers", steps, shift, scheduler)
    euler = FlowMatchEulerDiscreteScheduler(shift=shift)
    euler.set_timesteps(steps)
    yield entry("euler", "diffusers", steps, shift, euler)


def wan_grids(steps, shift):
    """UniPC from 0.999 (as f32), DPM++ and Euler from 1, in the original code."""
    falling = 1 - numpy.arange(steps) / steps
    scheduler = unipc(shift)
    scheduler.set_timesteps(sigmas=float(numpy.float32(0.999)) * falling)
    yield entry("unipc", "wan", steps, shift, scheduler)

    shifted = shift * falling / (1 + (shift - 1) * falling)
    levels = torch.tensor([*shifted, 0.0], dtype=torch.float32)
    times = torch.tensor(numpy.trunc(1000 * shifted))
    solver = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", flow_shift=shift, **FLOW
    )
    euler = FlowMatchEulerDiscreteScheduler(shift=shift)
    for kind, scheduler in (("dpm++", solver), ("euler", euler)):
        scheduler.set_timesteps(steps)
        scheduler.sigmas, scheduler.timesteps = levels.clone(), times.clone()
        scheduler.set_begin_index(0)
        yield entry(kind, "wan", steps, shift, scheduler)


def make():
    entries = [e for grid in GRIDS for e in (*diffusers_grids(*grid), *wan_grids(*grid))]
    write_lines(common.ROOT / "schedulers.json", entries)
