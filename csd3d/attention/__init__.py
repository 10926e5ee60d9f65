"""Inside the network: who looks at what. Pure torch over named sites and rows; knows no model and no files.

In reading order:

    sites            where: the attentions and residual blocks of a UNet, by name, kind, place and level
    rows             what a row of a call is: role, branch, particle, the tokens that it reads, how noisy it is
    control          what may be changed there: q, k, v, the logits, the probabilities, what leaves
    bank             what rows leave behind for others, written by key
    words            which tokens a word has become, and which token of one sentence is which of another
    maps             attention maps, read
    masks            where an edit is, by the difference of predictions
    word_masks       where the thing is that a word names
    segments         what hangs together, by self-attention alone: DiffSeg
    score            a prior whose attention can be controlled, as the engine sees it
    compositions     published methods: Prompt-to-Prompt, Plug-and-Play, MasaCtrl, re-weighting, fused keys and values
    structure        Structure Diffusion: noun phrases read each for itself
    dense            dense text-to-image: phrases that hold in regions
    like             Cross-Image attention: the look of a reference picture
    eye              Eye-for-an-Eye: hidden states of anchors along motion
    correspondences  where points are in another picture by features (DIFT)
    attended         a prior under control: particles share attention, targets look at their sources
    groups           which things a caption names, with what is said of them
    energy           what maps should be: CONFORM, Attend-and-Excite
    layout           the energy of things in boxes, of LLM-grounded diffusion
    steer            a sampler moved along the gradient of an energy; choosing among noises by it
    pull             the same gradient as a term of distillation
    tail             NAME:key=value,... of settings
    presets          what settings ask for

`csd3d.priors.networks.sites` puts controls into a UNet.
"""

from csd3d.attention.attended import AttendedScore as AttendedScore
from csd3d.attention.bank import Bank as Bank
from csd3d.attention.compositions import Composition as Composition
from csd3d.attention.control import Control as Control
from csd3d.attention.maps import Maps as Maps
from csd3d.attention.maps import read_maps as read_maps
from csd3d.attention.maps import refine as refine
from csd3d.attention.presets import Attention as Attention
from csd3d.attention.rows import Role as Role
from csd3d.attention.rows import Rows as Rows
from csd3d.attention.score import Controllable as Controllable
from csd3d.attention.sites import Site as Site
from csd3d.attention.sites import choose as choose
from csd3d.attention.words import Tokens as Tokens
from csd3d.attention.words import Word as Word
