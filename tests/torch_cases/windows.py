"""What works on windows, borders and sizes of images: pooling, folding, padding, interpolation."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case

SIGNAL, IMAGE, VOLUME = X((2, 3, 7)), X((2, 3, 5, 6)), X((2, 2, 4, 3, 5))
INTEGERS = X((2, 5, 6), -9, 9, "int64")


def _functional(name: str, *args: object, **kwargs: object) -> Case:
    return case(f"nn.functional.{name}", *args, **kwargs)


def _pooling() -> Iterator[Case]:
    name = "max_pool2d"
    yield from (
        _functional(name, IMAGE, 2),
        _functional(name, IMAGE, (3, 2), (2, 1)),
        _functional(name, IMAGE, 3, 2, 1),
        _functional(name, IMAGE, 3, 2, 1, ceil_mode=True),
        _functional(name, IMAGE, 2, 1, 1, 2, return_indices=True),
        _functional(name, X((3, 4, 4)), 2, return_indices=True),
        _functional(name, INTEGERS, 2),
        _functional(name, X((0, 3, 4, 4)), 2),
        _functional("max_pool1d", SIGNAL, 3, 2),
        _functional("max_pool1d", SIGNAL, 3, 1, 1, 2, True, True),
        _functional("max_pool1d", X((3, 6)), 2),
        _functional("max_pool3d", VOLUME, 2),
        _functional("max_pool3d", VOLUME, (2, 3, 2), 1, (0, 1, 1), return_indices=True),
        case("max_pool2d", IMAGE, 2),
    )
    name = "avg_pool2d"
    yield from (
        _functional(name, IMAGE, 2),
        _functional(name, IMAGE, (3, 2), (2, 1), 1),
        _functional(name, IMAGE, 3, 2, 1, True),
        _functional(name, IMAGE, 3, 2, 1, True, False),
        _functional(name, IMAGE, 2, divisor_override=3),
        _functional(name, X((3, 4, 4)), 2, 1),
        _functional("avg_pool1d", SIGNAL, 3, 2, 1),
        _functional("avg_pool1d", SIGNAL, 3, 2, 1, True, False),
        _functional("avg_pool3d", VOLUME, 2),
        _functional("avg_pool3d", VOLUME, (2, 3, 2), 2, (0, 1, 1), True, False),
    )
    yield from (
        _functional("adaptive_avg_pool1d", SIGNAL, 3),
        _functional("adaptive_avg_pool1d", SIGNAL, 1),
        _functional("adaptive_avg_pool2d", IMAGE, 1),
        _functional("adaptive_avg_pool2d", IMAGE, (5, 3)),
        _functional("adaptive_avg_pool2d", IMAGE, (3, 4)),
        _functional("adaptive_avg_pool2d", IMAGE, (None, 8)),
        _functional("adaptive_avg_pool3d", VOLUME, (2, 2, 3)),
        _functional("adaptive_max_pool1d", SIGNAL, 3),
        _functional("adaptive_max_pool1d", SIGNAL, 3, True),
        _functional("adaptive_max_pool2d", IMAGE, (5, 3)),
        _functional("adaptive_max_pool2d", IMAGE, (3, 4), True),
        _functional("adaptive_max_pool2d", IMAGE, (None, 8)),
        _functional("adaptive_max_pool3d", VOLUME, (2, 2, 3), True),
        _functional("lp_pool1d", X((2, 3, 7), 0.3, 2), 2, 3),
        _functional("lp_pool2d", X((2, 3, 5, 6), 0.3, 2), 3, (2, 3), 1),
        _functional("lp_pool2d", X((2, 3, 5, 6), 0.3, 2), 1.5, 2, ceil_mode=True),
        _functional("lp_pool3d", X((2, 2, 4, 3, 5), 0.3, 2), 2, 2),
    )


def _folding() -> Iterator[Case]:
    yield from (
        _functional("unfold", IMAGE, 2),
        _functional("unfold", IMAGE, (2, 3), (2, 1), (1, 0), (1, 2)),
        _functional("unfold", X((3, 4, 4)), 2, stride=2),
        _functional("fold", X((2, 12, 20)), (5, 6), 2),
        _functional("fold", X((2, 12, 6)), (4, 6), 2, stride=2),
        _functional("fold", X((2, 18, 10)), (5, 6), (2, 3), (2, 1), (1, 0), (1, 2)),
        _functional("fold", X((4, 9)), (4, 4), 2),
    )


def _padding() -> Iterator[Case]:
    yield from (
        _functional("pad", IMAGE, (1, 2)),
        _functional("pad", IMAGE, (1, 2, 0, 3), value=0.5),
        _functional("pad", IMAGE, (-1, 2, 1, -2)),
        _functional("pad", INTEGERS, (1, 1), value=3),
        _functional("pad", SIGNAL, (2, 1), "reflect"),
        _functional("pad", IMAGE, (2, 1, 0, 3), "reflect"),
        _functional("pad", IMAGE, (-1, 1, 1, -2), "reflect"),
        _functional("pad", VOLUME, (1, 2, 2, 1, 0, 1), "reflect"),
        _functional("pad", X((3, 4)), (2, 1), "reflect"),
        _functional("pad", SIGNAL, (2, 9), "replicate"),
        _functional("pad", IMAGE, (2, 1, 0, 3), "replicate"),
        _functional("pad", IMAGE, (-1, 1, 1, -2), "replicate"),
        _functional("pad", VOLUME, (1, 2, 2, 1, 0, 1), "replicate"),
        _functional("pad", SIGNAL, (2, 7), "circular"),
        _functional("pad", IMAGE, (2, 1, 0, 3), "circular"),
        _functional("pad", IMAGE, (-1, 1, 1, -2), "circular"),
        _functional("pad", VOLUME, (1, 2, 2, 1, 0, 1), "circular"),
        _functional("pad", INTEGERS, (1, 1), "reflect"),
    )


def _resampling() -> Iterator[Case]:
    for mode in ("nearest", "nearest-exact", "area", "bilinear", "bicubic"):
        yield from (
            _functional("interpolate", IMAGE, (8, 4), mode=mode),
            _functional("interpolate", IMAGE, scale_factor=2, mode=mode),
            _functional("interpolate", IMAGE, scale_factor=(1.7, 0.6), mode=mode),
        )
    for mode in ("bilinear", "bicubic"):
        yield from (
            _functional("interpolate", IMAGE, (8, 1), mode=mode, align_corners=True),
            _functional("interpolate", IMAGE, scale_factor=2, mode=mode, align_corners=True),
            _functional(
                "interpolate", IMAGE, scale_factor=1.7, mode=mode, recompute_scale_factor=True
            ),
        )
    for shape, mode in ((SIGNAL, "linear"), (VOLUME, "trilinear")):
        yield from (
            _functional("interpolate", shape, scale_factor=1.5),
            _functional("interpolate", shape, scale_factor=1.5, mode=mode),
            _functional("interpolate", shape, scale_factor=2, mode=mode, align_corners=True),
        )
    yield from (
        _functional("interpolate", IMAGE, (5, 6)),
        _functional("interpolate", X((0, 3, 4, 4)), 2),
        _functional("pixel_shuffle", X((2, 8, 3, 2)), 2),
        _functional("pixel_shuffle", X((9, 2, 2)), 3),
        _functional("pixel_unshuffle", X((2, 2, 4, 6)), 2),
        case("pixel_shuffle", X((2, 8, 3, 2)), 2),
        case("pixel_unshuffle", X((2, 2, 4, 6)), 2),
        _functional("channel_shuffle", X((2, 6, 3, 2)), 3),
    )


CASES = [*_pooling(), *_folding(), *_padding(), *_resampling()]
