"""Share out whole units (subject groups, sets of identical cells) so that every class is spread over the sides as wished.

In: int64 [units, classes] images of each class in each unit, the share of each side, a seed. Out: int64 [units], the
side of each unit. Writes: nothing.

Units with the same image counts (one profile) are interchangeable, so the search works on how many units of each profile
stand on each side: a split by image has tens of thousands of units but only a handful of profiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

# Up to so many ways to place the units (3 sides: 10 units) all are tried, which proves that the result is the best one.
_EXHAUSTIBLE = 100_000
# Starts of the search: many where they are cheap (41 for the 73 subjects of C-NMC), few with thousands of profiles, where
# one start already comes within a few images of every share.
_FEWEST_STARTS, _MOST_STARTS, _STARTS_TIMES_PROFILES = 3, 50, 3000
# Elements of one block of candidate exchanges: bounds the memory (8 bytes each, a few copies) with thousands of profiles.
_BLOCK = 2_000_000
# Below one squared image in a class of a million cells (1e-12): what is smaller is rounding.
_TOLERANCE = 1e-13
# Weight of a deviation in the number of units (subject groups) of a class against the same in its images. Small: among
# placements that are about as even in images, the one with the subjects better spread wins, because a test side of two
# large patients says little about the next patient.
_UNIT_WEIGHT = 0.05


def allocate(counts: Integers, shares: Sequence[float], seed: int) -> Integers:
    """Place every unit on one side so that `unevenness` is as low as the units allow.

    What is shared out are images first and, with a small weight, the number of units of each class.

    Few units are placed by trying all ways; many by seeded random-order greedy placement, then moves of one unit and
    swaps of two until none betters the result, from several starts of which the best is kept.

    Args:
        counts: int64 [units, classes], images of each class in each unit; every class occurs. The order of the rows
            decides the outcome, so sort them by something that the order on disk does not change.
        shares: wished share of each side; they sum to 1.
        seed: of the starts and of the choice among equals.

    Returns:
        int64 [units], index of the side. A class in fewer units than there are sides is missing from some side, and so
        may be a class whose units carry other classes too: check the result.
    """
    random = np.random.default_rng(seed)
    counts = np.hstack([counts, counts > 0])
    if len(shares) ** len(counts) <= _EXHAUSTIBLE:
        return _best_of_all(counts, shares, random)
    profiles, profile = np.unique(counts, axis=0, return_inverse=True)
    problem = _Problem.of(profiles, np.bincount(profile), shares)
    return _deal(profile, _search(problem, random), random)


def unevenness(table: Integers, shares: Sequence[float]) -> Floats:
    """How far images and units of each class are from their share of each side.

    Args:
        table: int64 [..., sides, 2 x classes], images of each class, then units of each; every class has at least one.
        shares: wished share of each side.

    Returns:
        float64 [...]: the sum over sides and columns of squared (count - share x total) / total, that of the units times
        `_UNIT_WEIGHT`, plus, for every class that is missing from a side, more than that sum can ever reach.
    """
    totals = table.sum(axis=-2, keepdims=True)
    costs: Floats = _side_costs(table, np.asarray(shares)[:, None] * totals, totals).sum(axis=-1)
    return costs


def _side_costs(table: Integers, targets: Floats, totals: Integers) -> Floats:
    """Unevenness of each row of [..., 2 x classes]; a missing class costs more than all deviations together can."""
    # Per class the deviations of all sides sum to 0 and each is below the class total: their squares sum to 2 at most.
    missing = 2.0 * table.shape[-1] + 1.0
    weights = _column_weights(table.shape[-1])
    costs: Floats = (weights * ((table - targets) / totals) ** 2 + missing * (table == 0)).sum(axis=-1)
    return costs


def _column_weights(columns: int) -> Floats:
    """1 for the images of each class, `_UNIT_WEIGHT` for the units of each."""
    return np.repeat([1.0, _UNIT_WEIGHT], columns // 2)


@dataclass(frozen=True)
class _Problem:
    """Row 0 of `profiles` is the empty unit, so that moving one unit is a swap with nothing."""

    profiles: Integers  # [profiles, 2 x classes], images of each class and whether there are any
    supply: Integers  # [profiles], units of each; 0 of the empty one
    shares: Floats  # [sides]
    totals: Integers  # [2 x classes]
    targets: Floats  # [sides, 2 x classes], images and units

    @classmethod
    def of(cls, profiles: Integers, supply: Integers, shares: Sequence[float]) -> _Problem:
        totals = supply @ profiles
        empty = np.zeros((1, profiles.shape[1]), np.int64)
        wished = np.asarray(shares, np.float64)
        return cls(np.vstack([empty, profiles]), np.append(0, supply), wished, totals, wished[:, None] * totals)

    def cost(self, table: Integers) -> float:
        return float(_side_costs(table, self.targets, self.totals).sum())

    def lowest_cost(self) -> float:
        """No placement is better than this one, which could cut units apart: largest-remainder rounding per class."""
        table = np.floor(self.targets).astype(np.int64)
        for column, missing in enumerate(self.totals - table.sum(axis=0)):
            remainders = self.targets[:, column] - table[:, column]
            table[np.argsort(-remainders)[:missing], column] += 1
        return float((_column_weights(table.shape[1]) * ((table - self.targets) / self.totals) ** 2).sum())


def _best_of_all(counts: Integers, shares: Sequence[float], random: np.random.Generator) -> Integers:
    units, sides = len(counts), len(shares)
    ways = np.arange(sides**units)[:, None] // sides ** np.arange(units) % sides
    table = np.stack([(ways == side) @ counts for side in range(sides)], axis=1)
    costs = unevenness(table, shares)
    best: Integers = ways[random.choice(np.flatnonzero(costs <= costs.min() + _TOLERANCE))]
    return best


def _search(problem: _Problem, random: np.random.Generator) -> Integers:
    """Units of each profile (the empty one left out) on each side: int64 [profiles, sides]."""
    lowest, best, best_cost = problem.lowest_cost(), None, np.inf
    starts = min(max(_STARTS_TIMES_PROFILES // len(problem.profiles), _FEWEST_STARTS), _MOST_STARTS)
    for _ in range(starts):
        stock = _greedy(problem, random)
        table = _descend(problem, stock)
        cost = problem.cost(table)
        if best is None or cost < best_cost - _TOLERANCE:
            best, best_cost = stock, cost
        if best_cost <= lowest + _TOLERANCE:
            break
    return np.empty((0, len(problem.shares)), np.int64) if best is None else best[1:]


def _greedy(problem: _Problem, random: np.random.Generator) -> Integers:
    """Units of each profile on each side; what a profile has in plenty goes by share, the rest one by one."""
    stock = np.floor(problem.supply[:, None] * problem.shares).astype(np.int64)
    table = stock.T @ problem.profiles
    left_over = np.repeat(np.arange(len(stock)), problem.supply - stock.sum(axis=1))
    for index in random.permutation(left_over):
        unit = problem.profiles[index]
        now = _side_costs(table, problem.targets, problem.totals)
        side = int(np.argmin(_side_costs(table + unit, problem.targets, problem.totals) - now))
        table[side] += unit
        stock[index, side] += 1
    return stock


def _descend(problem: _Problem, stock: Integers) -> Integers:
    """Change `stock` by the best move or swap between two sides until none is left that betters it.

    Returns:
        int64 [sides, classes], images.
    """
    table = stock.T @ problem.profiles
    stock[0] = 1
    bettered = True
    while bettered:
        bettered = False
        for pair in combinations(range(len(table)), 2):
            while _exchange(problem, stock, table, pair):
                bettered = True
    stock[0] = 0
    return table


def _exchange(problem: _Problem, stock: Integers, table: Integers, pair: tuple[int, int]) -> bool:
    """Make the best exchange of one unit (or nothing) of each side of `pair`; False where none betters it."""
    one, other = pair
    given, taken = np.flatnonzero(stock[:, one]), np.flatnonzero(stock[:, other])
    blocks = -(-len(given) * len(taken) * table.shape[1] // _BLOCK)
    lowest, swap = _pair_cost(problem, table, pair, np.zeros(table.shape[1], np.int64)).item() - _TOLERANCE, None
    for block in np.array_split(given, blocks):
        flow = problem.profiles[block][:, None] - problem.profiles[taken]
        costs = _pair_cost(problem, table, pair, flow)
        row, column = np.unravel_index(np.argmin(costs), costs.shape)
        if costs[row, column] < lowest:
            lowest, swap = costs[row, column], (block[row], taken[column])
    if swap is None:
        return False
    flow = problem.profiles[swap[0]] - problem.profiles[swap[1]]
    table[one] -= flow
    table[other] += flow
    np.add.at(stock, (list(swap) * 2, [one, other, other, one]), [-1, -1, 1, 1])
    stock[0] = 1
    return True


def _pair_cost(problem: _Problem, table: Integers, pair: tuple[int, int], flow: Integers) -> Floats:
    """Unevenness of two sides after `flow` images [..., classes] went from the first to the second."""
    one, other = pair
    targets, totals = problem.targets, problem.totals
    return _side_costs(table[one] - flow, targets[one], totals) + _side_costs(
        table[other] + flow, targets[other], totals
    )


def _deal(profile: Integers, stock: Integers, random: np.random.Generator) -> Integers:
    """Which unit goes where: within a profile, at random."""
    order = random.permutation(len(profile))
    order = order[np.argsort(profile[order], kind="stable")]
    sides = np.empty(len(profile), np.int64)
    sides[order] = np.repeat(np.tile(np.arange(stock.shape[1]), len(stock)), stock.ravel())
    return sides
