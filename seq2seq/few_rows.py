"""Products of a few rows with a weight matrix on processors with AVX2, as 1×1 convolutions.

A step of a beam search multiplies a row for each beam: 24 rows of 4 sources with 6 beams. There oneDNN's convolution
multiplies by large matrices (the output layer, an MLP's first) up to a quarter faster than its matrix product does,
from packed weights as well. Both add in one order: numbers are the same bit for bit, however many rows there are, up to
a depth of 1,024.

The layout of the packed weights depends on the width of the image, that is the number of rows. One in another layout
would be packed again in every call, so rows are filled up with zeros to a width that has the layout at hand.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

DEEPEST = 1024  # inputs: sums of more are added in blocks, which the product and the convolution choose differently
WIDTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96)  # rows that are multiplied as they are
LEAST, MOST = 4, WIDTHS[-1]  # rows: with less or more the product is as fast
LARGE = 3 * 2**19  # weights: a smaller matrix is multiplied faster by the product

Then = tuple[str, list[float], str]  # what oneDNN computes behind a product: a function's name, its numbers, its kind


def fits(weight: Tensor, rows: int | None) -> bool:
    """Whether products of at most so many rows with float32 weights (out, in) are faster and the same in this form."""
    return (
        rows is not None
        and LEAST <= rows <= MOST
        and weight.numel() >= LARGE
        and weight.dtype == torch.float32
        and weight.shape[1] <= DEEPEST
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


class FewRows:
    """The product with weights (out, in), bias (out,) and what comes then: states (..., in) -> (..., out).

    Weights are packed when few rows come for the first time: layers that see many, as an encoder's, never are. More
    rows than `MOST` are multiplied by oneDNN's product as the weights are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, then: Then) -> None:
        self.weight, self.bias, self.then = weight, bias, then

    def __call__(self, states: Tensor) -> Tensor:
        outputs, inputs = self.weight.shape
        states = states.to(self.weight.dtype)
        rows = states.reshape(-1, inputs)
        if len(rows) > MOST:
            return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, *self.then)
        width = next(width for width in WIDTHS if width >= len(rows) and self._has_layout_for(width))
        filled = nn.functional.pad(rows, (0, 0, 0, width - len(rows))) if width > len(rows) else rows
        image = filled.reshape(1, 1, width, inputs).permute(0, 3, 1, 2)  # channels innermost: no copy
        product = torch.ops.mkldnn._convolution_pointwise(
            image, self.packed, self.bias, [0, 0], [1, 1], [1, 1], 1, *self.then
        )
        return product.permute(0, 2, 3, 1).reshape(width, outputs)[: len(rows)].view(*states.shape[:-1], outputs)

    @cached_property
    def packed(self) -> Tensor:
        """The weights in the layout for the most rows."""
        return _packed(self.weight, MOST)

    def _has_layout_for(self, width: int) -> bool:
        """Whether the packed weights are in the layout that oneDNN wants for `width` rows."""
        key = (*self.weight.shape, width, torch.get_num_threads())
        if width < MOST and key not in _same:
            describe = torch.ops.mkldnn._get_mkldnn_serialized_md
            _same[key] = torch.equal(describe(_packed(self.weight, width)), describe(self.packed))
        return width == MOST or _same[key]


_same: dict[tuple[int, ...], bool] = {}  # asked once for each shape and number of threads: it costs packing the weights


@torch.no_grad()
def _packed(weight: Tensor, width: int) -> Tensor:
    """Weights (out, in) in the layout for so many rows."""
    image = [1, weight.shape[1], 1, width]
    kernel = weight.contiguous()[:, :, None, None]
    return torch.ops.mkldnn._reorder_convolution_weight(kernel, [0, 0], [1, 1], [1, 1], 1, image)
