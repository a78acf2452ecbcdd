"""NeuMF, a small dense tower beside a product of embeddings, and what its batch costs beside that of MF.

Its damping follows from Adam's options; nothing is calibrated.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.criteria import Figure
from benchmarks.evaluated import criterion, figures, gap_over_floor, measure
from benchmarks.parts import Case, Part
from benchmarks.protocol import MOVIELENS_1M
from benchmarks.trial import Setting, Trial

_SHARE = 0.002


def measure_beside_mf(setting: Setting) -> dict[str, Any]:
    """Train, erase and evaluate NeuMF; erase the same from matrix factorisation of as many dimensions."""
    beside = Setting(data=setting.data, folder=setting.folder / "mf", seed=setting.seed, references=setting.references)
    beside.folder.mkdir()
    plain = Trial(beside, MOVIELENS_1M, share=_SHARE, flipped=True)
    factorisation = {"train": plain.train("--dim", 32), "unlearn": plain.unlearn()}
    tower = partial(measure, protocol=MOVIELENS_1M, share=_SHARE, flipped=True)
    return {**tower(setting, training=("--model", "neumf", "--dim", 32), calibrated=False), "mf": factorisation}


_BESIDE: Mapping[str, Figure] = {
    "seconds": lambda run: run["mf"]["unlearn"]["seconds"]["total"],
    "rho": lambda run: run["mf"]["unlearn"]["influence_residual"],
    "Newton steps": lambda run: run["mf"]["unlearn"]["solver"]["newton_steps"],
    "rows": lambda run: run["mf"]["unlearn"]["rows_updated"],
}

NEUMF_PART = Part(
    title="NeuMF (d = 32, tower of 32 and 16), MovieLens-1M, 0.2 % erased",
    references=5,
    cases=(
        Case(
            name="flipped labels",
            protocol=MOVIELENS_1M,
            measure=measure_beside_mf,
            criteria=(criterion("gap on erased pairs / noise floor", gap_over_floor, bound=1.5),),
            figures={**figures(flipped=True, calibrated=False), "matrix factorisation": _BESIDE},
        ),
    ),
)
