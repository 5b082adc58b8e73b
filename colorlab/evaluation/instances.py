"""Does each object get its own words' color when several objects are of one kind? Measured on held-out scenes.

Words alone do not tell two cups apart: without masks the right cup is a matter of chance. Captions name the objects in
a random order, and every mask belongs to the words of its object.

| row | what is compared |
| --- | --- |
| right | the name nearest to the median ab in the mask, with the name that the caption gives this object |
| by chance | the same with the scene's own names dealt out anew |
| matched | the same with the best of all ways to deal out the names: are the colors there, on whichever object |
| overlap | attention of each phrase with its mask, at the first step, where colors are decided |
| outside | color of everything else, with masks against without |
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, permutations

import numpy as np
import torch

from colorlab.color import CHROMATIC_COLORS
from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.evaluation.metrics import lab_distance
from colorlab.evaluation.report import Estimate, Report, bootstrapped, proportion
from colorlab.evaluation.scenes import Colorize, InstanceColor, describe_scene, held_out_scenes, measure
from colorlab.inspection.phrases import phrase_overlaps
from colorlab.settings import Settings
from colorlab.training.scenes import TEST_SEEDS, Scene, make_scene

_FIRST_SEED = TEST_SEEDS.start + 4 * 10**8
_GRIDS = ((16, 16), (8, 8))
