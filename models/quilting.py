"""Image quilting: textures out of the blocks of an exemplar (Efros & Freeman 2001, SIGGRAPH, section 2).

A texture is laid out of overlapping square blocks, row by row. Each block is one of those that agree best
with what is there already, and where it overlaps, it is cut along the path of least difference. All that
decides is counted in whole numbers, so a texture is the same on any device and in any batch.
"""

import math
from collections import defaultdict
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from models.noise import SampleNoise

AT_ONCE = 1 << 24  # numbers of candidate blocks that are held at once
EDGES = ("left", "top", "right", "bottom")


def quilt(
    x_BCHW: Tensor,
    seeds_B: list[int],
    height: int,
    width: int,
    block: int | None = None,
    overlap: float = 0.25,
    candidates: int = 256,
    tolerance: float = 0.1,
    tileable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Quilt a texture of any size out of each exemplar.

    Args:
        x_BCHW: uint8 exemplars.
        seeds_B: what each texture's blocks are chosen by.
        height, width: of the textures in pixels, larger than the exemplars or not.
        block, overlap, candidates, tolerance, tileable: as `models.families.texture.Config` tells.

    Returns:
        uint8 textures (B, C, height, width), and minus the root mean square difference along their cuts
        (B,), in grey levels: 0 where no seam can show.

    Raises:
        ValueError: the blocks are not smaller than the exemplar, or larger than the texture.
    """
    block = block_side(x_BCHW.shape[2], x_BCHW.shape[3], block)
    if block > min(height, width):
        raise ValueError(f"a texture of {height} x {width} pixels is smaller than its blocks of {block}")
    layout, noise = Layout(height, width, block, overlap, tileable), SampleNoise(seeds_B, x_BCHW.device)
    down, right = (side - block + 1 for side in x_BCHW.shape[2:])
    order_BK = noise.uniform((down * right,)).argsort(dim=1, stable=True)[:, :candidates]
    chance_BN = noise.uniform((layout.count,))
    group = max(1, AT_ONCE // (order_BK.shape[1] * x_BCHW.shape[1] * block**2))
    with torch.autocast(x_BCHW.device.type, enabled=False):
        parts = [
            layout.fill(blocks(x, order // right, order % right, block), chance, tolerance)
            for x, order, chance in zip(
                x_BCHW.split(group), order_BK.split(group), chance_BN.split(group), strict=True
            )
        ]
    textures, scores = zip(*parts, strict=True)
    return torch.cat(textures), torch.cat(scores)


def block_side(height: int, width: int, block: int | None = None) -> int:
    """Pixels a side of an exemplar's blocks. Raises ValueError if they are not smaller than it is."""
    least = min(height, width)
    block = block or max(4, least // 4)
    if block >= least:
        raise ValueError(
            f"an exemplar of {height} x {width} pixels allows no texture out of blocks of {block}: "
            "lower `block`, or give a larger exemplar"
        )
    return block


def blocks(x_BCHW: Tensor, top_BM: Tensor, left_BM: Tensor, block: int) -> Tensor:
    """The blocks at these corners of each uint8 exemplar, as whole numbers around 0: (B, M, C, b, b)."""
    B, C, H, W = x_BCHW.shape
    image_B, plane_C, place = (torch.arange(n, device=x_BCHW.device) for n in (B, C, block))
    corner_BM = image_B[:, None] * (C * H * W) + top_BM * W + left_BM
    pixel_Chw = plane_C[:, None, None] * (H * W) + place[:, None] * W + place
    # From flat numbers it takes a sixth of the time that indexing by rows and columns does.
    at = (corner_BM.int().flatten()[:, None] + pixel_Chw.int().flatten()).flatten()
    return (x_BCHW.float() - 128).flatten().index_select(0, at).view(B, -1, C, block, block)


def starts(length: int, block: int, overlap: int, tileable: bool) -> list[int]:
    """Where blocks begin along one side of a texture, so that each overlaps the next by so much or more."""
    step = block - overlap
    if tileable:
        count = math.ceil(length / step)
        return [n * length // count for n in range(count)]
    return [n * step for n in range(math.ceil((length - block) / step) + 1)]


class Layout:
    """Where the blocks of a texture lie, and in which order they are laid.

    Blocks that do not touch are laid at once: of each row, those two places behind the row above. That is
    the paper's raster order, as far as any block can tell. A tileable texture is laid block by block, since
    its last column meets its first.
    """

    def __init__(self, height: int, width: int, block: int, overlap: float, tileable: bool) -> None:
        self.height, self.width, self.tileable = height, width, tileable
        self.overlap = min(max(1, round(overlap * block)), block // 2)
        self.tops, self.lefts = (starts(side, block, self.overlap, self.tileable) for side in (height, width))
        self.canvas = (height, width)
        if not self.tileable:
            self.canvas = (self.tops[-1] + block, self.lefts[-1] + block)  # cut off at the end
        behind, waves = len(self.lefts) if self.tileable else 2, defaultdict(list)
        for row, column in product(range(len(self.tops)), range(len(self.lefts))):
            waves[column + behind * row].append((row, column))
        self.waves: list[list[tuple[int, int]]] = [waves[n] for n in sorted(waves)]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.tops) * len(self.lefts)

    def meets(self, edge: str, row: int, column: int) -> bool:
        """Whether the block at this place overlaps, at one of its edges, what is there before it."""
        if edge in ("left", "top"):
            return (column if edge == "left" else row) > 0
        last = column == len(self.lefts) - 1 if edge == "right" else row == len(self.tops) - 1
        return self.tileable and last

    def strip(self, t: Tensor, edge: str) -> Tensor:
        """The part of blocks (..., b, b) that overlaps at an edge: (..., along it, across it), a view."""
        lies_down = edge in ("top", "bottom")
        at = {"right": self.width - self.lefts[-1], "bottom": self.height - self.tops[-1]}.get(edge, 0)
        return (t.mT if lies_down else t)[..., at : at + self.overlap]

    def fill(self, blocks_BMChw: Tensor, chance_BN: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """Lay each texture out of its own blocks, chosen by uniform numbers, one a place.

        Returns uint8 textures (B, C, height, width), and minus the difference along their cuts (B,).
        """
        B, M, C, side = blocks_BMChw.shape[:4]
        device = blocks_BMChw.device
        blocks_BMChw = blocks_BMChw.to(exact(C * side * self.overlap))
        canvas_BCHW = blocks_BMChw.new_zeros(B, C, *self.canvas)
        known: dict[str, tuple[Tensor, Tensor]] = {}
        own_B1, place = torch.arange(B, device=device)[:, None], torch.arange(side, device=device)
        seams_B, cuts, laid = torch.zeros(B, dtype=torch.float64, device=device), 0, 0
        for wave in self.waves:
            W = len(wave)
            corner_2W = torch.tensor([[self.tops[r], self.lefts[c]] for r, c in wave], device=device).T
            rows, columns = corner_2W[..., None] + place
            at = (
                slice(None),
                slice(None),
                rows[:, :, None] % self.canvas[0],
                columns[:, None] % self.canvas[1],
            )
            there_BWChw = canvas_BCHW[at].transpose(1, 2)
            met = {e: [self.meets(e, *where) for where in wave] for e in EDGES}
            met_W = {e: torch.tensor(found, device=device) for e, found in met.items() if any(found)}
            error_BWM = torch.zeros(B, W, M, dtype=torch.float64, device=device)
            for edge, meets_W in met_W.items():
                if edge not in known:
                    strip_BMn = self.strip(blocks_BMChw, edge).flatten(2)
                    known[edge] = strip_BMn, squares(strip_BMn)
                error_BWM += apart(self.strip(there_BWChw, edge).flatten(2), *known[edge]) * meets_W[:, None]
            chosen_BW = choose(error_BWM, chance_BN[:, laid : laid + W], tolerance)
            laid += W
            new_BWChw = blocks_BMChw[own_B1, chosen_BW]
            takes_BWhw = self.within(wave, rows, columns).expand(B, -1, -1, -1).clone()
            for edge, meets_W in met_W.items():
                strip_BWlo = self.strip((new_BWChw - there_BWChw).square().sum(2), edge)
                path_BWl, cost_BW = cut(strip_BWlo)
                across = torch.arange(self.overlap, device=device)
                path_BWl1 = path_BWl[..., None]
                inner = across >= path_BWl1 if edge in ("left", "top") else across <= path_BWl1
                self.strip(takes_BWhw, edge).logical_and_(inner | ~meets_W[:, None, None])
                seams_B += (cost_BW * meets_W).sum(1)
                cuts += sum(met[edge])
            canvas_BCHW[at] = torch.where(takes_BWhw[:, :, None], new_BWChw, there_BWChw).transpose(1, 2)
        x_BCHW = (canvas_BCHW[..., : self.height, : self.width] + 128).to(torch.uint8)
        return x_BCHW, -(seams_B / max(cuts * side * C, 1)).sqrt().float()

    def within(self, wave: list[tuple[int, int]], rows: Tensor, columns: Tensor) -> Tensor:
        """Which pixels of blocks (W, b, b) the texture has: at an edge, as far as they meet the other one."""
        over = [[self.overlap * self.meets(e, *where) for where in wave] for e in ("bottom", "right")]
        down_W, right_W = torch.tensor(over, device=rows.device)
        return (rows < self.canvas[0] + down_W[:, None])[:, :, None] & (
            columns < self.canvas[1] + right_W[:, None]
        )[:, None]


def exact(numbers: int) -> torch.dtype:
    """What holds the sum of so many products of whole numbers from -128 to 127, in whichever order."""
    return torch.float32 if numbers * 128**2 <= 1 << 24 else torch.float64


def squares(x: Tensor) -> Tensor:
    """The sum of squares of the last dimension of (..., n), float64."""
    return x.square().sum(-1).double()


def apart(there_BWn: Tensor, known_BMn: Tensor, squares_BM: Tensor) -> Tensor:
    """Squared differences (B, W, M), float64, of whole numbers that are `exact` in their own dtype.

    `squares_BM`: of the known ones, which are compared again and again.
    """
    product_BWM = torch.bmm(there_BWn, known_BMn.mT).double()
    return product_BWM.mul_(-2).add_(squares(there_BWn)[..., None]).add_(squares_BM[:, None])


def choose(error_BWM: Tensor, chance_BW: Tensor, tolerance: float) -> Tensor:
    """For each place a candidate (B, W) whose error is near the least, by a uniform number.

    The least is that of candidates that differ at all: one that merely goes on where its neighbour came
    from would otherwise always be alone, and the texture a copy.
    """
    least_BW1 = error_BWM.masked_fill(error_BWM == 0, torch.inf).amin(2, keepdim=True)
    rank_BWM = (error_BWM <= (1 + tolerance) * least_BW1).cumsum(2)
    many_BW = rank_BWM[..., -1]
    which_BW = (chance_BW * many_BW).long().clamp(max=many_BW - 1)
    return (rank_BWM <= which_BW[..., None]).sum(2)


def cut(error: Tensor) -> tuple[Tensor, Tensor]:
    """The path along an overlap (..., L, O) on which the errors sum to least, and that sum.

    Dynamic programming (section 2.1): E_ij = e_ij + min(E_i-1,j-1, E_i-1,j, E_i-1,j+1). The path is a place
    across the overlap for each place along it, (..., L); the leftmost of equals. The sum is (...).
    """
    rows = [error[..., 0, :]]
    for step in error.unbind(-2)[1:]:
        before = F.pad(rows[-1], (1, 1), value=torch.inf)
        rows.append(step + torch.minimum(torch.minimum(before[..., :-2], before[..., 2:]), rows[-1]))
    across, cost = torch.arange(error.shape[-1], device=error.device), rows[-1].amin(-1)
    path = [rows[-1].argmin(-1)]
    for sums in rows[-2::-1]:
        far = (across - path[-1][..., None]).abs() > 1
        path.append(sums.masked_fill(far, torch.inf).argmin(-1))
    return torch.stack(path[::-1], -1), cost
