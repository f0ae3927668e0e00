"""Derives the polynomials of Sources/AttentionKernels/Exp2.swift and prints them with their errors.

2^r on [-1/2, 1/2] by p(r) = 1 + c1 r + ... + cn r^n with the least largest relative error (Remez exchange). The
constant is fixed at 1, so that 2^0 is exact. Fifty-digit decimals, so that the printed digits are right.
"""

from decimal import Decimal, getcontext

getcontext().prec = 50

Vector = list[Decimal]

GRID = 2000
LOW, HIGH = Decimal("-0.5"), Decimal("0.5")


def exp2(x: Decimal) -> Decimal:
    """2^x."""
    return (x * Decimal(2).ln()).exp()


def solve(matrix: list[Vector], right: Vector) -> Vector:
    """Solve a linear system by elimination with row exchanges."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(size):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


def relative_error(coefficients: Vector, x: Decimal, truth: Decimal) -> Decimal:
    """The error of the polynomial (c1 first) at x, relative to 2^x."""
    value = Decimal(0)
    for c in reversed(coefficients):
        value = value * x + c
    return (1 + value * x) / truth - 1


def alternating_extrema(grid: Vector, errors: Vector) -> Vector:
    """The places of the largest error within each run of one sign."""
    extrema: list[tuple[Decimal, Decimal]] = []
    for x, error in zip(grid, errors, strict=True):
        if error == 0:
            continue
        if extrema and (extrema[-1][1] > 0) == (error > 0):
            if abs(error) > abs(extrema[-1][1]):
                extrema[-1] = (x, error)
        else:
            extrema.append((x, error))
    return [x for x, _ in extrema]


def minimax(degree: int) -> tuple[Vector, Decimal]:
    """Return c1 ... cn and the largest relative error."""
    grid = [LOW + (HIGH - LOW) * i / GRID for i in range(GRID + 1)]
    truths = [exp2(x) for x in grid]
    # One reference more than coefficients; none at 0, where the error is 0 by construction.
    references = [LOW + (HIGH - LOW) * (2 * i + 1) / (2 * degree + 2) + Decimal("1e-3") for i in range(degree + 1)]
    while True:
        matrix = [[x**p for p in range(1, degree + 1)] + [(-1) ** i * exp2(x)] for i, x in enumerate(references)]
        coefficients = solve(matrix, [exp2(x) - 1 for x in references])[:degree]
        errors = [relative_error(coefficients, x, truth) for x, truth in zip(grid, truths, strict=True)]
        extrema = alternating_extrema(grid, errors)[: degree + 1]
        if len(extrema) <= degree or extrema == references:
            return coefficients, max(map(abs, errors))
        references = extrema


def main() -> None:
    """Print the polynomials of both element types, highest coefficient first."""
    for name, degree in (("f32", 6), ("f64", 11)):
        coefficients, error = minimax(degree)
        print(f"{name}: degree {degree}, largest relative error {error:.2e}")
        for c in reversed(coefficients):
            print(f"  {c:.17e}")
        print("  1")


if __name__ == "__main__":
    main()
