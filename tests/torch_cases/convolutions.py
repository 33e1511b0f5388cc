"""Convolutions of one to three dimensions, and the transposed ones."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case


def _cases() -> Iterator[Case]:
    image, kernel, bias = X((2, 3, 5, 6)), X((4, 3, 3, 2)), X((4,))
    signal, volume = X((2, 4, 7)), X((1, 2, 3, 4, 3))
    name = "nn.functional.conv2d"
    yield from (
        case(name, image, kernel),
        case(name, image, kernel, bias),
        case(name, image, kernel, bias, 2, 1),
        case(name, image, kernel, bias, stride=(1, 3), padding=(2, 0)),
        case(name, image, kernel, bias, dilation=2, padding=(0, 1)),
        case(name, image, kernel, bias, padding="valid"),
        case(name, image, X((4, 3, 3, 3)), bias, padding="same", dilation=(1, 2)),
        case(name, image, X((4, 3, 1, 1)), bias),
        case(name, image, X((4, 3, 1, 1)), bias, stride=2),
        case(name, image, X((2, 3, 5, 6))),
        case(name, X((2, 4, 5, 6)), X((6, 2, 3, 3)), X((6,)), padding=1, groups=2),
        case(name, X((2, 3, 5, 5)), X((6, 1, 3, 3)), X((6,)), stride=2, padding=1, groups=3),
        case(name, X((3, 5, 5)), X((2, 3, 3, 3)), X((2,))),
        case(name, X((0, 3, 5, 5)), X((2, 3, 3, 3)), X((2,))),
        case("nn.functional.conv1d", signal, X((3, 4, 3)), X((3,))),
        case("nn.functional.conv1d", signal, X((2, 2, 3)), X((2,)), 2, 2, 2, 2),
        case("nn.functional.conv1d", signal, X((3, 4, 3)), padding="same"),
        case("nn.functional.conv1d", X((4, 7)), X((3, 4, 3)), X((3,))),
        case("nn.functional.conv3d", volume, X((3, 2, 2, 2, 2)), X((3,))),
        case("nn.functional.conv3d", volume, X((2, 1, 3, 2, 1)), stride=(1, 2, 1), padding=1, groups=2),
        case("conv2d", image, kernel, bias),
        case("conv1d", signal, X((3, 4, 3)), X((3,))),
        case("conv3d", volume, X((3, 2, 2, 2, 2)), X((3,))),
    )  # fmt: skip
    name = "nn.functional.conv_transpose2d"
    kernel = X((3, 4, 3, 2))
    yield from (
        case(name, image, kernel),
        case(name, image, kernel, bias, 2, 1, 1),
        case(name, image, kernel, bias, (1, 3), (2, 0), (0, 2)),
        case(name, image, kernel, bias, stride=2, dilation=2, padding=1, output_padding=1),
        case(name, X((2, 4, 3, 3)), X((4, 1, 3, 3)), X((2,)), stride=2, groups=2),
        case(name, X((2, 3, 3, 3)), X((3, 2, 4, 4)), X((2,)), stride=2, padding=1),
        case(name, X((3, 4, 4)), X((3, 2, 3, 3)), X((2,))),
        case(name, X((0, 3, 4, 4)), X((3, 2, 3, 3)), X((2,))),
        case("nn.functional.conv_transpose1d", signal, X((4, 3, 3)), X((3,)), 2, 1),
        case("nn.functional.conv_transpose1d", signal, X((4, 1, 3)), X((2,)), groups=2),
        case("nn.functional.conv_transpose3d", volume, X((2, 3, 2, 2, 2)), X((3,)), stride=(2, 1, 2)),
        case("conv_transpose2d", image, kernel, bias),
        case("conv_transpose1d", signal, X((4, 3, 3)), X((3,))),
        case("conv_transpose3d", volume, X((2, 3, 2, 2, 2)), X((3,))),
    )  # fmt: skip


CASES = list(_cases())
