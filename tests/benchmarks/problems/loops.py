"""The classical functions once more, from the papers, in Python loops over scalars: an independent oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, exp, pi, sin, tan

from numpy import arctan2, hypot

Vector = Sequence[float]


def rosenbr(x: Vector) -> float:
    return (10 * (x[1] - x[0] * x[0])) ** 2 + (1 - x[0]) ** 2


def beale(x: Vector) -> float:
    return sum((y - x[0] * (1 - x[1] ** i)) ** 2 for i, y in ((1, 1.5), (2, 2.25), (3, 2.625)))


def helix(x: Vector) -> float:
    turns = arctan2(x[1], x[0]) / (2 * pi)
    turns += 1 if turns < -0.25 else 0  # the cut lies on the negative second axis
    return float((10 * (x[2] - 10 * turns)) ** 2 + (10 * (hypot(x[0], x[1]) - 1)) ** 2 + x[2] ** 2)


def kowosb(x: Vector) -> float:
    table = (
        "4 .1957 2 .1947 1 .1735 .5 .1600 .25 .0844 .167 .0627 .125 .0456 .1 .0342 .0833 .0323 .0714 .0235"
    )
    numbers = [*map(float, table.split()), 0.0624, 0.0246]
    total = 0.0
    for u, y in zip(numbers[::2], numbers[1::2], strict=True):
        total += (y - x[0] * u * (u + x[1]) / (u * (u + x[2]) + x[3])) ** 2
    return total


def osbornea(x: Vector) -> float:
    thousandths = (
        "844 908 932 936 925 908 881 850 818 784 751 718 685 658 628 603 580 558 538 522 506 490 478 467 457 "
        "448 438 431 424 420 414 411 406"
    )
    total = 0.0
    for i, y in enumerate(thousandths.split()):
        t = 10.0 * i
        total += (int(y) / 1000 - (x[0] + x[1] * exp(-t * x[3]) + x[2] * exp(-t * x[4]))) ** 2
    return total


def meyer3(x: Vector) -> float:
    table = "34780 28610 23650 19630 16370 13720 11540 9744 8261 7030 6005 5147 4427 3820 3307 2872"
    total = 0.0
    for i, y in enumerate(table.split(), start=1):
        total += (x[0] * exp(x[1] / (45 + 5 * i + x[2])) - int(y)) ** 2
    return total


def himmelbg(x: Vector) -> float:
    return (2 * x[0] ** 2 + 3 * x[1] ** 2) * exp(-x[0]) * exp(-x[1])


def brownbs(x: Vector) -> float:
    return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2


def genrose(x: Vector) -> float:
    total = 1.0
    for i in range(1, len(x)):
        total += 100 * (x[i] - x[i - 1] ** 2) ** 2 + (x[i] - 1) ** 2
    return total


def woods(x: Vector) -> float:
    total = 0.0
    for j in range(0, len(x), 4):
        total += 100 * (x[j + 1] - x[j] ** 2) ** 2 + (1 - x[j]) ** 2
        total += 90 * (x[j + 3] - x[j + 2] ** 2) ** 2 + (1 - x[j + 2]) ** 2
        total += 10 * (x[j + 1] + x[j + 3] - 2) ** 2 + 0.1 * (x[j + 1] - x[j + 3]) ** 2
    return total


def nondia(x: Vector) -> float:
    total = (x[0] - 1) ** 2
    for i in range(1, len(x)):
        total += 100 * (x[0] - x[i - 1] ** 2) ** 2
    return total


def arwhead(x: Vector) -> float:
    total = 0.0
    for i in range(len(x) - 1):
        total += (x[i] ** 2 + x[-1] ** 2) ** 2 - 4 * x[i] + 3
    return total


def bdqrtic(x: Vector) -> float:
    total = 0.0
    for i in range(len(x) - 4):
        total += (-4 * x[i] + 3) ** 2
        total += sum(w * x[j] ** 2 for w, j in ((1, i), (2, i + 1), (3, i + 2), (4, i + 3), (5, -1))) ** 2
    return total


def cragglvy(x: Vector) -> float:
    total = 0.0
    for i in range(1, len(x) // 2):
        a, b, c, d = x[2 * i - 2], x[2 * i - 1], x[2 * i], x[2 * i + 1]
        total += (exp(a) - b) ** 4 + 100 * (b - c) ** 6 + (tan(c - d) + c - d) ** 4 + a**8 + (d - 1) ** 2
    return total


def liarwhd(x: Vector) -> float:
    return sum(4 * (-x[0] + t * t) ** 2 + (t - 1) ** 2 for t in x)


def engval1(x: Vector) -> float:
    total = 0.0
    for i in range(len(x) - 1):
        total += (x[i] ** 2 + x[i + 1] ** 2) ** 2 + 3 - 4 * x[i]
    return total


def tridia(x: Vector) -> float:
    total = (x[0] - 1) ** 2
    for i in range(2, len(x) + 1):
        total += i * (2 * x[i - 1] - x[i - 2]) ** 2
    return total


def dixmaanb(x: Vector) -> float:
    n, m = len(x), len(x) // 3
    total = 1.0
    for i in range(n):
        total += x[i] ** 2
        if i < n - 1:
            total += 0.0625 * x[i] ** 2 * (x[i + 1] + x[i + 1] ** 2) ** 2
        if i < 2 * m:
            total += 0.0625 * x[i] ** 2 * x[i + m] ** 4
        if i < m:
            total += 0.0625 * x[i] * x[i + 2 * m]
    return total


def msqrtals(x: Vector) -> float:
    p = round(len(x) ** 0.5)
    b = [[sin((p * i + j + 1) ** 2) for j in range(p)] for i in range(p)]
    total = 0.0
    for i in range(p):
        for j in range(p):
            square = sum(x[p * i + t] * x[p * t + j] for t in range(p))
            total += (square - sum(b[i][t] * b[t][j] for t in range(p))) ** 2
    return total


def freuroth(x: Vector) -> float:
    total = 0.0
    for i in range(len(x) - 1):
        y = x[i + 1]
        total += (-13 + x[i] + ((5 - y) * y - 2) * y) ** 2 + (-29 + x[i] + ((y + 1) * y - 14) * y) ** 2
    return total


def indef(x: Vector) -> float:
    return sum(x) + 0.5 * sum(cos(2 * x[i] - x[-1] - x[0]) for i in range(1, len(x) - 1))


LOOPS: dict[str, Callable[[Vector], float]] = {
    function.__name__.upper(): function
    for function in (
        rosenbr,
        beale,
        helix,
        kowosb,
        osbornea,
        meyer3,
        himmelbg,
        brownbs,
        genrose,
        woods,
        nondia,
        arwhead,
        bdqrtic,
        cragglvy,
        liarwhd,
        engval1,
        tridia,
        dixmaanb,
        msqrtals,
        freuroth,
        indef,
    )
}
