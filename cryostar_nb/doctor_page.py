"""The doctor's report: as text for a terminal, and as one page that needs no network, with particles beside what was predicted."""

import html
from typing import Any

import numpy as np
import torch

from cryostar_nb.diagnosis import Diagnosis
from cryostar_nb.doctor import Scored
from cryostar_nb.hypotheses import predict
from cryostar_nb.report import PAGE_STYLE, picture, table
from cryostar_nb.visualisation import plot_correlations, plot_images

SHOWN = 6  # particles
