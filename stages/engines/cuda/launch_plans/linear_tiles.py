"""Tiles of linear.cu: how many rows and columns of the product a block computes, and how its warps share them."""

from dataclasses import dataclass, replace

from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, divide_up

HOPPER = "9.0"
"""The compute capability with wgmma instructions. Its successors don't have them."""
MIN_WGMMA_OUTPUTS = 1 << 16
"""Least number of values in a product for wgmma. With fewer, its large tiles leave most of the GPU idle."""
MIN_STAGES, MAX_STAGES = 3, 4
"""Of a pipeline without wgmma: fewer than the first hide the reads from memory worse than several blocks at once do."""
ROWS_IN_WAVE = 31
"""Rows for each multiprocessor from which on blocks of whole rows keep the GPU busy."""
OTHERS = 9
"""Tiles beside the default that `make tune` measures."""


@dataclass(frozen=True)
class Layer:
    """What the tile of a layer depends on."""

    images: int
    rows: int
    columns: int
    depth: int
    half: bool
    pre_norm: bool
    post_norm: bool

    @property
    def outputs(self) -> int:
        """Values of the product."""
        return self.images * self.rows * self.columns


@dataclass(frozen=True)
class Tile:
    """The part of a product that a block computes, and how it does so."""

    rows: int
    columns: int
    warps_m: int
    """Warps along the rows."""
    warps_n: int
    """Warps along the columns."""
    blocks: int
    """Blocks that a multiprocessor runs at once, by their registers."""
    wgmma: bool = False
    stages: int = 0
    """Steps of K for which rows and columns are in shared memory at the same time."""
    split_k: int = 0
    """Parts of K that are computed by blocks of their own, before another launch adds them up. 0: no such launch."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def stage_bytes(self) -> int:
        """Shared memory of a stage."""
        return 2 * (self.rows + self.columns) * (64 if self.wgmma else 32 + 8)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block. Tiles of wgmma begin at multiples of 1 KiB."""
        return self.stages * self.stage_bytes + (1024 if self.wgmma else 0)

    def static_bytes(self, post_norm: bool) -> int:
        """Shared memory beside the stages: two numbers for each row of the tile, its moments or partial sums."""
        return 8 * self.rows * (self.warps_n if post_norm else 1) + 16

    def count(self, layer: Layer) -> int:
        """Tiles of a product."""
        return divide_up(layer.rows, self.rows) * divide_up(layer.columns, self.columns) * layer.images

    def choice(self) -> Choice:
        """The tile as constants of the source."""
        return {
            "TILE_M": self.rows,
            "TILE_N": self.columns,
            "WARPS_M": self.warps_m,
            "WARPS_N": self.warps_n,
            "BLOCKS": self.blocks,
            "WGMMA": int(self.wgmma),
            "STAGES": self.stages,
            "SPLIT_K": self.split_k,
        }


def parse(choice: Choice) -> Tile:
    """The tile of a `Tile.choice`."""
    sizes = (choice[name] for name in ("TILE_M", "TILE_N", "WARPS_M", "WARPS_N", "BLOCKS"))
    rows, columns, warps_m, warps_n, blocks = sizes
    stages, split_k = choice["STAGES"], choice["SPLIT_K"]
    return Tile(rows, columns, warps_m, warps_n, blocks, bool(choice["WGMMA"]), stages, split_k)


SINGLE_TILE = Tile(64, 64, 16, 16, 1, stages=2)
"""The tile in float32, by 16 x 16 threads."""
TILES = (
    Tile(128, 128, 4, 2, 2),
    Tile(128, 96, 4, 2, 2),
    Tile(128, 64, 4, 2, 2),
    Tile(64, 128, 2, 4, 2),
    Tile(64, 96, 2, 2, 4),
    Tile(64, 64, 2, 4, 2),
    Tile(32, 64, 2, 4, 2),
    Tile(32, 32, 2, 2, 4),
)
MEASURED_TILES = (
    Tile(128, 256, 2, 4, 1),
    Tile(256, 128, 4, 2, 1),
    Tile(256, 96, 4, 2, 1),
    Tile(128, 192, 2, 4, 1),
    Tile(128, 128, 2, 2, 2),
    Tile(128, 96, 2, 2, 2),
    Tile(64, 256, 1, 4, 2),
)
WGMMA_TILES = (
    Tile(128, 256, 8, 2, 1, wgmma=True),
    Tile(128, 192, 8, 1, 1, wgmma=True),
    Tile(128, 128, 8, 1, 1, wgmma=True),
    Tile(128, 128, 8, 1, 2, wgmma=True),
    Tile(128, 96, 8, 1, 2, wgmma=True),
    Tile(128, 64, 8, 1, 2, wgmma=True),
)
"""Those that the default is chosen from."""
MEASURED_WGMMA_TILES = (
    Tile(64, 256, 4, 2, 2, wgmma=True),
    Tile(64, 128, 4, 1, 3, wgmma=True),
    Tile(192, 128, 12, 1, 1, wgmma=True),
    Tile(256, 128, 16, 1, 1, wgmma=True),
)
"""Those that only `make tune` tries."""


def tiles(layer: Layer, machine: Machine) -> list[Tile]:
    """Tiles of a layer: that with the least estimated time first, then others that `make tune` measures.

    Blocks of whole rows normalise them at once. Otherwise blocks write partial products, which may be split along K.
    """
    first = _default(layer, machine)
    if not layer.half:
        return [first]
    others = [tile for tile in _all(layer, machine) if tile != first]
    return [first, *sorted(others, key=lambda tile: _estimate(tile, layer, machine))[:OTHERS]]


def _default(layer: Layer, machine: Machine) -> Tile:
    whole_rows = layer.half and layer.columns <= 256
    whole_rows &= layer.images * layer.rows >= ROWS_IN_WAVE * machine.multiprocessors
    epilogue = layer.post_norm and not whole_rows
    if not layer.half:
        tile = SINGLE_TILE
    elif machine.compute_capability == HOPPER and not epilogue and layer.outputs >= MIN_WGMMA_OUTPUTS:
        tile = _wgmma_tile(layer, machine)
    elif layer.post_norm and not epilogue:
        tile = _whole_rows_tile(layer, machine)
    else:
        tile = min(TILES, key=lambda tile: _estimate(tile, layer, machine))
    if epilogue:
        blocks = tile.count(layer)
        tile = replace(tile, split_k=min(8, max(1, machine.multiprocessors // blocks), divide_up(layer.depth, 128)))
    return replace(tile, stages=_stages(tile, layer, machine)) if layer.half else tile


def _all(layer: Layer, machine: Machine) -> list[Tile]:
    """All tiles in half precision that fit."""
    shapes = [*TILES, *MEASURED_TILES]
    if machine.compute_capability == HOPPER:
        shapes += [*WGMMA_TILES, *MEASURED_WGMMA_TILES]
    if layer.post_norm:
        wide = divide_up(layer.columns, 128) * 128
        whole = [Tile(rows, wide, 1, 8, 2) for rows in (64, 80, 96)]
        whole += [Tile(rows, wide, 2, 4, 1) for rows in (64, 128)]
        if machine.compute_capability == HOPPER:
            whole += [
                Tile(128, wide, 8, wide // 128, 1, wgmma=True),
                Tile(192, wide, 12, wide // 256 or 1, 1, wgmma=True),
            ]
        splits = [split for split in (1, 2, 4, 8) if split <= divide_up(layer.depth, 128)]
        parts = [replace(tile, split_k=split) for tile in shapes if not tile.wgmma for split in splits]
        shapes = parts + (whole if layer.columns <= 256 else [])
    found = []
    for tile in shapes:
        most = _stages(tile, layer, machine)
        counts = {most} if tile.wgmma else {most, most - 1}
        for stages in sorted(counts, reverse=True):
            staged = replace(tile, stages=stages)
            if _fits(staged, layer, machine):
                found.append(staged)
    return found


def _fits(tile: Tile, layer: Layer, machine: Machine) -> bool:
    # Warps have whole fragments, and the finished tile must fit into the stages.
    warps = tile.rows // tile.warps_m % 16 == 0 and tile.columns // tile.warps_n % 16 == 0
    finished = 2 * tile.rows * (tile.columns + 8) <= tile.stages * tile.stage_bytes
    # A thread has 255 registers at most. Products take one each.
    registers = tile.rows * tile.columns // tile.threads <= 128 and tile.threads <= 512
    shared_bytes = tile.shared_bytes + tile.static_bytes(layer.post_norm and not tile.split_k)
    # wgmma keeps two stages that are not loaded ahead, unless all of K is loaded at once.
    ahead = tile.stages - (2 if tile.wgmma and tile.stages * 64 < layer.depth else 1)
    return warps and finished and registers and ahead > 0 and shared_bytes <= machine.block_shared_bytes


def _estimate(tile: Tile, layer: Layer, machine: Machine) -> float:
    """A measure of a layer's time: the number of waves times a block's time for products and reads."""
    waves = divide_up(tile.count(layer) * max(1, tile.split_k), machine.multiprocessors)
    return waves * (tile.rows * tile.columns + 64 * (tile.rows + tile.columns)) / max(1, tile.split_k)


def _whole_rows_tile(layer: Layer, machine: Machine) -> Tile:
    """A tile of all columns, with the number of rows that best fills waves of two blocks per multiprocessor."""
    columns = divide_up(layer.columns, 128) * 128
    return min(
        (Tile(rows, columns, 1, 8, 2) for rows in (64, 80, 96)),
        key=lambda tile: divide_up(tile.count(layer), 2 * machine.multiprocessors) * tile.rows,
    )


def _wgmma_tile(layer: Layer, machine: Machine) -> Tile:
    """The tile with the fewest waves of blocks, and of those the one that gives a multiprocessor the least work.

    On an H100 the choice costs 4 % over the fastest tile of each layer.
    """
    if layer.post_norm:
        return Tile(128, 128, 8, 1, 2, wgmma=True) if layer.columns <= 128 else Tile(192, 256, 12, 1, 1, wgmma=True)

    def cost(tile: Tile) -> tuple[int, int]:
        blocks = tile.count(layer)
        at_once = min(tile.blocks, divide_up(blocks, machine.multiprocessors))
        return divide_up(blocks, machine.multiprocessors * tile.blocks), at_once * tile.rows * tile.columns

    return min(WGMMA_TILES, key=cost)


def _stages(tile: Tile, layer: Layer, machine: Machine) -> int:
    """Stages of a tile's pipeline, by the shared memory that its blocks have."""
    static_bytes = tile.static_bytes(layer.post_norm and not tile.split_k)
    if not tile.wgmma:
        # Of so many blocks at once, or else of one. The driver takes 1 KiB of each.
        beside = machine.shared_bytes // tile.blocks - 1024 - static_bytes
        alone = machine.block_shared_bytes - static_bytes
        return min(MAX_STAGES, (beside if beside >= MIN_STAGES * tile.stage_bytes else alone) // tile.stage_bytes)
    # If all of K fits, it is loaded in one step. The finished tile must fit too. The driver takes 1 KiB of each block.
    room = machine.shared_bytes // tile.blocks - 2048 - static_bytes
    finished = divide_up(2 * tile.rows * (tile.columns + 8), tile.stage_bytes)
    return max(finished, min(divide_up(layer.depth, 64), room // tile.stage_bytes))
