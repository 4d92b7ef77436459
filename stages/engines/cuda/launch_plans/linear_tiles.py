"""Tiles of linear.cu: how many rows and columns of the product a block computes, and how its warps share them.

A tile is chosen only by the number of rows, columns and images. WAVE blocks run at once on a large GPU; smaller GPUs
get the same tiles.
"""

from dataclasses import dataclass

from stages.engines.cuda.launch_plans.plan import MAX_DYNAMIC_SHARED_BYTES, WAVE, divide_up

HOPPER = "9.0"
"""The compute capability with wgmma instructions. Its successors don't have them."""
HOPPER_SHARED_BYTES = 228 << 10
"""Shared memory of a multiprocessor of compute capability 9.0."""
MIN_WGMMA_OUTPUTS = 1 << 16
"""Least number of values in a product for wgmma. With fewer, its large tiles leave most of the GPU idle."""


@dataclass(frozen=True)
class Tile:
    """The part of a product that a block computes, and its warps along rows (m) and columns (n)."""

    rows: int
    columns: int
    warps_m: int
    warps_n: int
    blocks_at_once: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor runs at once: those of 512 threads, unless blocks_at_once says otherwise."""
        return self.blocks_at_once or 512 // self.threads

    def count(self, rows: int, columns: int, images: int) -> int:
        """Tiles of a product."""
        return divide_up(rows, self.rows) * divide_up(columns, self.columns) * images


SINGLE_TILE = Tile(64, 64, 16, 16, 1)
"""The tile in float32, by 16 x 16 threads."""
TILES = (
    Tile(128, 128, 4, 2),
    Tile(128, 96, 4, 2),
    Tile(128, 64, 4, 2),
    Tile(64, 128, 2, 4),
    Tile(64, 96, 2, 2),
    Tile(64, 64, 2, 4),
    Tile(32, 64, 2, 4),
    Tile(32, 32, 2, 2),
)
WGMMA_TILES = (
    Tile(128, 256, 8, 2, 1),
    Tile(128, 192, 8, 1, 1),
    Tile(128, 128, 8, 1, 1),
    Tile(128, 128, 8, 1, 2),
    Tile(128, 96, 8, 1, 2),
    Tile(128, 64, 8, 1, 2),
)


def whole_rows_tile(rows: int, columns: int) -> Tile:
    """A tile of all columns, with the number of rows that best fills waves of two blocks per multiprocessor."""
    tile_columns = divide_up(columns, 128) * 128
    return min(
        (Tile(tile_rows, tile_columns, 1, 8) for tile_rows in (64, 80, 96)),
        key=lambda tile: divide_up(divide_up(rows, tile.rows), 2 * WAVE) * tile.rows,
    )


def tile(rows: int, columns: int, images: int) -> Tile:
    """The tile with the least estimated time: the number of waves times a block's time for products and reads."""

    def cost(tile: Tile) -> float:
        waves = divide_up(tile.count(rows, columns, images), WAVE)
        return waves * (tile.rows * tile.columns + 64 * (tile.rows + tile.columns))

    return min(TILES, key=cost)


def wgmma_tile(rows: int, columns: int, images: int, whole_rows: bool) -> Tile:
    """The tile with the fewest waves of blocks, and of those the one that gives a multiprocessor the least work.

    `whole_rows`: the tile must have all columns. On an H100 the choice costs 4 % over the fastest tile of each layer.
    """
    if whole_rows:
        return Tile(128, 128, 8, 1, 2) if columns <= 128 else Tile(192, 256, 12, 1, 1)

    def cost(tile: Tile) -> tuple[int, int]:
        blocks = tile.count(rows, columns, images)
        at_once = min(tile.blocks, divide_up(blocks, WAVE))
        return divide_up(blocks, WAVE * tile.blocks), at_once * tile.rows * tile.columns

    return min(WGMMA_TILES, key=cost)


@dataclass(frozen=True)
class Stages:
    """Stages of a block's pipeline: steps of K for which rows and columns are in shared memory at the same time."""

    count: int
    shared_bytes: int
    """Dynamic shared memory of all of them."""


def stages(tile: Tile, depth: int, wgmma: bool, post_norm: bool) -> Stages:
    """The pipeline of a tile in half precision, for K of `depth`."""
    # Besides the stages there are two numbers for each row of the tile: its moments, or partial sums.
    static_bytes = 8 * tile.rows * (tile.warps_n if post_norm else 1) + 16
    if not wgmma:
        stage_bytes = 2 * (tile.rows + tile.columns) * (32 + 8)
        count = min(4, (MAX_DYNAMIC_SHARED_BYTES - static_bytes) // stage_bytes)
        return Stages(count, count * stage_bytes)
    # If all of K fits, it is loaded in one step. The finished tile must fit too. The driver takes 1 KiB of each block,
    # and tiles begin at multiples of 1 KiB.
    stage_bytes, alignment_bytes = 2 * (tile.rows + tile.columns) * 64, 1024
    room = HOPPER_SHARED_BYTES // tile.blocks - 1024 - alignment_bytes - static_bytes
    finished = divide_up(2 * tile.rows * (tile.columns + 8), stage_bytes)
    count = max(finished, min(divide_up(depth, 64), room // stage_bytes))
    return Stages(count, count * stage_bytes + alignment_bytes)
