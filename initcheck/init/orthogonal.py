"""Orthogonal weights: matrices, convolutions whose centre tap is orthogonal, unitary and looks-linear blocks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from initcheck.init._tensors import gaussian, initialiser, need_dims, write

Method = Literal["qr", "polar", "svd"]


def _orthonormal(rows: int, columns: int, method: str, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """A (semi-)orthogonal matrix: the shorter side's vectors are orthonormal."""
    if method not in ("qr", "polar", "svd"):
        raise ValueError(f"method must be 'qr', 'polar' or 'svd', got {method!r}")
    q: Tensor
    tall = gaussian((max(rows, columns), min(rows, columns)), like, generator)
    home = tall.device
    if home.type == "mps":  # no factorisations there
        tall = tall.cpu()
    if method == "qr":
        q, r = torch.linalg.qr(tall)
        diagonal = torch.diagonal(r)
        q = q * (diagonal / diagonal.abs())  # makes the factorisation unique, and q Haar-distributed (Mezzadri 2007)
    else:
        u, _, vh = torch.linalg.svd(tall, full_matrices=False)
        q = u if method == "svd" else u @ vh  # X (XᴴX)^-½ = UVᴴ, without the square, which costs half of the digits
    q = q.to(home)
    return q if rows >= columns else q.mH


@initialiser
def orthogonal_(
    tensor: Tensor, gain: float = 1.0, method: Method = "qr", *, generator: torch.Generator | None = None
) -> Tensor:
    """A (semi-)orthogonal matrix times ``gain`` (Saxe et al. 2014); dimensions after the first are flattened.

    - ``"qr"``: Q of a Gaussian with the signs of R's diagonal moved into it, uniform over all orthogonal matrices;
    - ``"polar"``: (XXᵀ)^-½ X, the orthogonal matrix nearest to the Gaussian X;
    - ``"svd"``: the left singular vectors of a Gaussian.

    With rows ≤ columns the rows are orthonormal, else the columns.

    Raises:
        ValueError: fewer than two dimensions, or an unknown method.
    """
    need_dims("orthogonal_", tensor, 2)
    rows = tensor.shape[0]
    q = _orthonormal(rows, tensor.numel() // rows, method, tensor, generator)
    return write(tensor, gain * q.reshape(tensor.shape))


@initialiser
def centred_orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    """A (semi-)orthogonal matrix times ``gain`` whose rows sum to zero; dimensions after the first are flattened.

    Each unit's incoming weights sum to zero, so that what all its inputs have in common drops out (centred weights:
    Huang et al. 2017). For the layers behind an activation whose mean is far from zero: of a sigmoid's second moment
    three quarters are the square of its mean, which in a deep net drowns the input, whatever the scale of the weights.

    Where there are fewer rows than columns the rows are orthonormal; else the constant vector is taken out of an
    orthogonal matrix, and the rest scaled so that the elements have the second moment that ``orthogonal_`` gives them.

    Raises:
        ValueError: fewer than two dimensions, or rows of one element (their sum could only be zero if they were).
    """
    need_dims("centred_orthogonal_", tensor, 2)
    rows = tensor.shape[0]
    columns = tensor.numel() // rows
    if columns < 2:
        raise ValueError(
            f"centred_orthogonal_: rows of {columns} element cannot sum to zero, shape {tuple(tensor.shape)}"
        )
    if rows < columns:
        raw = gaussian((columns, rows), tensor, generator)
        q, _ = torch.linalg.qr(raw - raw.mean(0))
        weight = q.mH
    else:
        q = _orthonormal(rows, columns, "qr", tensor, generator)
        weight = (q - q.mean(1, keepdim=True)) * (columns / (columns - 1)) ** 0.5
    return write(tensor, gain * weight.reshape(tensor.shape))


@initialiser
def delta_orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    """Zero but for the centre tap, which is orthogonal: the convolution keeps every norm (Xiao et al. 2018, alg. 1).

    Args:
        tensor: a 1-d, 2-d or 3-d convolution's weight (out, in, k...), out ≥ in.
        gain: factor on the centre tap.
        generator: source of randomness.

    Raises:
        ValueError: not 3 to 5 dimensions, or fan_out < fan_in (columns cannot be orthonormal then).
    """
    need_dims("delta_orthogonal_", tensor, 3, 5)
    rows, columns = tensor.shape[:2]
    if rows < columns:
        raise ValueError(
            f"delta_orthogonal_: needs at least as many output as input channels, got {rows} < {columns} "
            f"(shape {tuple(tensor.shape)})"
        )
    return write(tensor, _at_centre(gain * _orthonormal(rows, columns, "qr", tensor, generator), tensor.shape))


def _at_centre(matrix: Tensor, shape: torch.Size) -> Tensor:
    """A kernel of that shape which is zero but for its centre tap."""
    tap = 0
    for size in shape[2:]:
        tap = tap * size + (size - 1) // 2
    values = matrix.new_zeros(shape)
    values.view(shape[0], shape[1], -1)[:, :, tap] = matrix
    return values


@initialiser
def unitary_(tensor: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """A unitary matrix, uniform over all of them.

    A complex square tensor gets the matrix U itself. A real one of even size 2m, a recurrent weight that acts on
    (Re h, Im h), gets its block form [[Re U, -Im U], [Im U, Re U]], which is orthogonal (Arjovsky et al. 2016).

    Raises:
        ValueError: not a square matrix, or real and of odd size.
    """
    need_dims("unitary_", tensor, 2, 2)
    size = tensor.shape[0]
    if tensor.shape[1] != size:
        raise ValueError(f"unitary_: needs a square matrix, got shape {tuple(tensor.shape)}")
    if tensor.is_complex():
        return write(tensor, _orthonormal(size, size, "qr", tensor, generator))
    if size % 2:
        raise ValueError(f"unitary_: a real block form needs an even size, got {size}")
    half = torch.empty(0, dtype=torch.complex128 if tensor.dtype == torch.float64 else torch.complex64)
    u = _orthonormal(size // 2, size // 2, "qr", half.to(tensor.device), generator)
    return write(tensor, torch.cat([torch.cat([u.real, -u.imag], 1), torch.cat([u.imag, u.real], 1)]))


@initialiser
def looks_linear_(
    tensor: Tensor,
    position: Literal["first", "hidden", "last"] = "hidden",
    gain: float = 1.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mirrored weights that make a ReLU network linear at the start (Balduzzi et al. 2017, §4).

    With W orthogonal: the first layer is [W; -W], the last [W, -W], hidden ones [[W, -W], [-W, W]], so that
    W·ReLU(x) - W·ReLU(-x) = W·x through every layer.

    Args:
        tensor: a matrix, or a convolution's weight (then W is delta-orthogonal).
        position: of the layer in the network.
        gain: factor on W.
        generator: source of randomness.

    Raises:
        ValueError: an odd number of outputs (not last) or of inputs (not first), or an unknown position.
    """
    need_dims("looks_linear_", tensor, 2, 5)
    if position not in ("first", "hidden", "last"):
        raise ValueError(f"looks_linear_: position must be 'first', 'hidden' or 'last', got {position!r}")
    rows, columns = tensor.shape[:2]
    if position != "last" and rows % 2:
        raise ValueError(f"looks_linear_: a {position} layer needs an even number of outputs, got {rows}")
    if position != "first" and columns % 2:
        raise ValueError(f"looks_linear_: a {position} layer needs an even number of inputs, got {columns}")
    height = rows if position == "last" else rows // 2
    width = columns if position == "first" else columns // 2
    core = _orthonormal(height, width, "qr", tensor, generator) * gain
    whole = core if position == "first" else torch.cat([core, -core], 1)
    if position != "last":
        whole = torch.cat([whole, -whole], 0)
    return write(tensor, whole if tensor.dim() == 2 else _at_centre(whole, tensor.shape))
