"""Collaborative score distillation: the mathematics, in pure torch. No files, prompts or diffusion libraries.

In reading order, each formula in one place:

    types         the data: latents, the batch of a step, the same at noise level t
    schedule      z_t = sqrt(ab_t) z + sqrt(1 - ab_t) e
    guidance      predictions with and without condition, extrapolated to one
    residuals     r: what one particle wants (noise or source baseline)
    kernels       k: the weight of one particle in the update of another
    reuse         the unconditional part of guidance, kept for some moves
    stein         g: residuals mixed by the kernel, and repulsion (SVGD)
    transport     the same along correspondences: a pixel mixes with where its point is in other particles
    regularisers  terms with a gradient of their own (PatchNCE)
    step          all of it, once, as a pure function
    optimise      z <- z - lr g, by SGD or Adam
    loop          steps one after another, as a generator
    epochs        batches, for more particles than one step may hold
    ddim          deterministic sampling, and inversion of a source into its noise
    sampling      many particles sampled together, as a generator
    config        the settings; the published methods and settings as presets
    validate      how settings are refused
"""

from csd3d.engine.config import METHODS as METHODS
from csd3d.engine.config import PAPER as PAPER
from csd3d.engine.config import CsdConfig as CsdConfig
from csd3d.engine.ddim import ddim_step as ddim_step
from csd3d.engine.ddim import invert as invert
from csd3d.engine.ddim import sample as sample
from csd3d.engine.ddim import timesteps as timesteps
from csd3d.engine.epochs import Epochs as Epochs
from csd3d.engine.epochs import steps_in_epoch as steps_in_epoch
from csd3d.engine.guidance import guided as guided
from csd3d.engine.guidance import instruct_coefficients as instruct_coefficients
from csd3d.engine.guidance import instruct_source_coefficients as instruct_source_coefficients
from csd3d.engine.guidance import text_coefficients as text_coefficients
from csd3d.engine.kernels import median_gamma as median_gamma
from csd3d.engine.kernels import rbf as rbf
from csd3d.engine.kernels import sq_distances as sq_distances
from csd3d.engine.loop import Objective as Objective
from csd3d.engine.loop import Particles as Particles
from csd3d.engine.loop import Stateful as Stateful
from csd3d.engine.loop import StepInfo as StepInfo
from csd3d.engine.loop import Watch as Watch
from csd3d.engine.loop import draw_noise as draw_noise
from csd3d.engine.loop import draw_timestep as draw_timestep
from csd3d.engine.loop import lr_at as lr_at
from csd3d.engine.loop import run as run
from csd3d.engine.loop import settled as settled
from csd3d.engine.optimise import Moments as Moments
from csd3d.engine.optimise import descend as descend
from csd3d.engine.optimise import first_moments as first_moments
from csd3d.engine.regularisers import Features as Features
from csd3d.engine.regularisers import FeatureSite as FeatureSite
from csd3d.engine.regularisers import PatchNce as PatchNce
from csd3d.engine.regularisers import Regularised as Regularised
from csd3d.engine.regularisers import Regulariser as Regulariser
from csd3d.engine.regularisers import patch_nce as patch_nce
from csd3d.engine.residuals import Score as Score
from csd3d.engine.residuals import StepScore as StepScore
from csd3d.engine.reuse import reusing as reusing
from csd3d.engine.sampling import SampledParticles as SampledParticles
from csd3d.engine.sampling import Sampling as Sampling
from csd3d.engine.sampling import run_sampling as run_sampling
from csd3d.engine.schedule import Schedule as Schedule
from csd3d.engine.stein import FeatureKernel as FeatureKernel
from csd3d.engine.stein import FeatureMap as FeatureMap
from csd3d.engine.stein import Kernel as Kernel
from csd3d.engine.stein import KernelSums as KernelSums
from csd3d.engine.stein import Perceptual as Perceptual
from csd3d.engine.stein import RbfKernel as RbfKernel
from csd3d.engine.stein import couple as couple
from csd3d.engine.step import Measured as Measured
from csd3d.engine.step import StepResult as StepResult
from csd3d.engine.step import csd_step as csd_step
from csd3d.engine.step import measured as measured
from csd3d.engine.step import require_finite as require_finite
from csd3d.engine.step import scalar_kernel as scalar_kernel
from csd3d.engine.step import surrogate_loss as surrogate_loss
from csd3d.engine.transport import Correspondences as Correspondences
from csd3d.engine.transport import TransportKernel as TransportKernel
from csd3d.engine.types import Batch as Batch
from csd3d.engine.types import Index as Index
from csd3d.engine.types import Latents as Latents
from csd3d.engine.types import Noised as Noised
