"""A composition in the form of C-NMC 2019 in 69 training cells: the same kinds of links, drawn in a second."""

from __future__ import annotations

from leukolens.data.cnmc_2019 import Composition

SMALL = Composition(
    training={
        "fold_0": {"1": 6, "20": 5, "H6": 4, "H7": 4},
        "fold_1": {"2": 6, "51": 12, "H10": 7},
        "fold_2": {"13": 5, "21": 5, "75": 4, "H2": 5, "H3": 3, "H4": 3},
    },
    preliminary={"53": 5, "54": 3, "H25": 4},
    final=8,
    final_subjects={"ALL": 1, "HEM": 1},
    shared=(("20", "21", 4), ("51", "75", 2), ("H2", "H6", 1), ("H10", "H3", 1), ("H10", "H10", 1)),
    padded=("51", 2, 4),
    final_pairs=((3, 5),),
)
