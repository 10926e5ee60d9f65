"""Collaborative score distillation: the mathematics, in pure torch. No files, prompts or diffusion libraries.

In reading order, each formula in one place:

    schedule      z_t = sqrt(ab_t) z + sqrt(1 - ab_t) e
    guidance      predictions with and without condition, into one
    residuals     r: what a particle wants (noise or source baseline)
    kernels       k: how much two particles have to do with each other
    stein         g: residuals mixed by the kernel, and repulsion (SVGD)
    regularisers  terms with a gradient of their own (PatchNCE)
    transport     the same along correspondences: a pixel mixes with where its point really is
    step          all of it, once, as a pure function
    loop          again and again, as a generator
    rounds        turns, where particles are more than a step may hold
    config        the settings; the published methods and settings as presets
"""

from csd3d.engine.config import METHODS as METHODS
from csd3d.engine.config import PAPER as PAPER
from csd3d.engine.config import CsdConfig as CsdConfig
from csd3d.engine.epochs import Rounds as Rounds
from csd3d.engine.epochs import steps_in_round as steps_in_round
from csd3d.engine.guidance import instruct_guidance as instruct_guidance
from csd3d.engine.guidance import text_guidance as text_guidance
from csd3d.engine.kernels import median_gamma as median_gamma
from csd3d.engine.kernels import rbf as rbf
from csd3d.engine.kernels import sq_distances as sq_distances
from csd3d.engine.loop import Batch as Batch
from csd3d.engine.loop import Particles as Particles
from csd3d.engine.loop import StepInfo as StepInfo
from csd3d.engine.loop import Watch as Watch
from csd3d.engine.loop import draw_noise as draw_noise
from csd3d.engine.loop import draw_timestep as draw_timestep
from csd3d.engine.loop import lr_at as lr_at
from csd3d.engine.loop import make_optimizer as make_optimizer
from csd3d.engine.loop import run as run
from csd3d.engine.regularisers import Features as Features
from csd3d.engine.regularisers import PatchNce as PatchNce
from csd3d.engine.regularisers import patch_nce as patch_nce
from csd3d.engine.residuals import Score as Score
from csd3d.engine.schedule import Schedule as Schedule
from csd3d.engine.stein import Kernel as Kernel
from csd3d.engine.stein import KernelSums as KernelSums
from csd3d.engine.stein import RbfKernel as RbfKernel
from csd3d.engine.stein import couple as couple
from csd3d.engine.step import Regulariser as Regulariser
from csd3d.engine.step import StepResult as StepResult
from csd3d.engine.step import csd_step as csd_step
from csd3d.engine.step import require_finite as require_finite
from csd3d.engine.step import surrogate_loss as surrogate_loss
from csd3d.engine.transport import Correspondences as Correspondences
from csd3d.engine.transport import TransportKernel as TransportKernel
