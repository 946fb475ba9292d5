"""How far neighbouring pixels of a flow move apart."""

KINK = 1e-4
"""Below this difference, in pixels, the distance is rounded off, so that a constant flow has a gradient."""


def smoothness(flow, neighbours):
    """Sum (n,) over each pixel and each of its four neighbours of sqrt(|difference|^2 + KINK^2) - KINK.

    Each pair counts twice, once from either end. `neighbours`: `axis` or `diagonal`; the paper's words allow both.
    """
    if neighbours == "axis":
        differences = flow[:, :, 1:] - flow[:, :, :-1], flow[:, :, :, 1:] - flow[:, :, :, :-1]
    else:
        differences = (
            flow[:, :, 1:, 1:] - flow[:, :, :-1, :-1],
            flow[:, :, 1:, :-1] - flow[:, :, :-1, 1:],
        )
    return 2 * sum(_lengths(difference).flatten(1).sum(dim=1) for difference in differences)


def _lengths(difference):
    square = difference.square().sum(dim=1)
    # The same as the root minus KINK, without subtracting nearly equal numbers.
    return square / ((square + KINK**2).sqrt() + KINK)
