"""The E-step of few rows against that of the kernels for many rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.core.e_step import EStep
from streamgmm.core.expectation import prepare
from streamgmm.core.few_rows_e_step import FewRowsEStep
from streamgmm.core.frame import Frame
from streamgmm.core.noise import Noise
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from tests.core.cases import COVARIANCE_TYPES, random_mixture
