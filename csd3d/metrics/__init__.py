"""What is measured, each metric with a written definition: tensors in, numbers out. Knows neither worlds nor priors.

Pictures are rgb in [0, 1], a clip is its frames in order. Every metric gives one number a picture (or pair), NaN where
there is nothing to measure; `tables` averages what is a number and says how many there were.

    fidelity    how far from another picture            dB, higher is better
    accuracy    is it the edit that was asked for       true or false
    agreement   is a whole set the same one of several  [0, 1], higher is better
    warp        do two frames agree where they overlap  [0, 1] units, lower is better
    background  what changed that should not have       [0, 1] units, lower is better
    structure   are edges where they were               squared cosines, lower is better
    flicker     how much a clip trembles                energy, lower is steadier
    ssim        do frames agree along motion            [-1, 1], higher is better
    embeddings  does it show what a sentence says       cosines of CLIP or another network's embeddings
    perceptual  distances by features of a network      LPIPS, self-similarity, Frechet; lower is better
    tables      means, counts, intervals, markdown
"""

from csd3d.metrics.accuracy import is_nearest as is_nearest
from csd3d.metrics.accuracy import nearest as nearest
from csd3d.metrics.accuracy import squared_distances as squared_distances
from csd3d.metrics.agreement import agreement as agreement
from csd3d.metrics.agreement import chance_agreement as chance_agreement
from csd3d.metrics.agreement import is_any_nearest as is_any_nearest
from csd3d.metrics.agreement import variety as variety
from csd3d.metrics.agreement import window_choices as window_choices
from csd3d.metrics.background import background_change as background_change
from csd3d.metrics.background import change_outside as change_outside
from csd3d.metrics.background import untouched as untouched
from csd3d.metrics.embeddings import consecutive_similarity as consecutive_similarity
from csd3d.metrics.embeddings import direction_consistency as direction_consistency
from csd3d.metrics.embeddings import directional_similarity as directional_similarity
from csd3d.metrics.embeddings import edit_quality as edit_quality
from csd3d.metrics.embeddings import frame_accuracy as frame_accuracy
from csd3d.metrics.embeddings import pairwise_similarity as pairwise_similarity
from csd3d.metrics.embeddings import text_alignment as text_alignment
from csd3d.metrics.fidelity import mean_squared_error as mean_squared_error
from csd3d.metrics.fidelity import psnr as psnr
from csd3d.metrics.flicker import flicker as flicker
from csd3d.metrics.perceptual import frechet_distance as frechet_distance
from csd3d.metrics.perceptual import lpips as lpips
from csd3d.metrics.perceptual import self_similarity_distance as self_similarity_distance
from csd3d.metrics.ssim import ssim as ssim
from csd3d.metrics.ssim import warp_ssim as warp_ssim
from csd3d.metrics.structure import structure_distance as structure_distance
from csd3d.metrics.tables import Mean as Mean
from csd3d.metrics.tables import aggregate as aggregate
from csd3d.metrics.tables import bootstrap_interval as bootstrap_interval
from csd3d.metrics.tables import jsonable as jsonable
from csd3d.metrics.tables import markdown_table as markdown_table
from csd3d.metrics.tables import mean as mean
from csd3d.metrics.tables import ratio as ratio
from csd3d.metrics.tables import wilson_interval as wilson_interval
from csd3d.metrics.warp import backward_warp as backward_warp
from csd3d.metrics.warp import warp_error as warp_error
