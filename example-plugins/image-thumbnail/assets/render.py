#!/usr/bin/env python3
"""Renders lake.jpg, the picture that the image-thumbnail example is tried on.

No photograph and no downloaded material goes in: a mountain lake is computed from noise, marched ray by ray,
and then treated as a camera would treat it (exposure, bloom, vignetting, grain). The seed is fixed, so that the
same versions of numpy and Pillow give the same picture. Same licence as the repository: MIT OR Apache-2.0.

    pip install numpy pillow
    python3 render.py lake.jpg            # about three minutes
    python3 render.py draft.png --draft   # half the resolution, no oversampling: twenty seconds

How it works, in order:
  1. terrain   a height map of 14 x 14 km: eroded noise, bent so that it leaves a lake basin in front of a massif
  2. light     a normal map, and a shadow map made by looking along the height map towards the sun
  3. march     each column of the picture walks outwards over the map; conifers and stones are bumps on it
  4. shade     snow, rock, scree, meadow, forest by height and slope; then haze by distance
  5. sky       a gradient, and clouds from noise on a plane high above
  6. water     the scene marched again from below the surface is the reflection, bent by ripples
  7. camera    tone curve, bloom, vignetting, grain
"""

import sys

import numpy as np
from PIL import Image

SEED = 20240607
WIDTH, HEIGHT = 1600, 1067
MAP_METRES = 14000.0  # side of the height map; the camera stands in the middle of its near edge
CAMERA_HEIGHT = 5.0  # metres above the lake
FOCAL = 0.92  # in picture widths: a 33 mm lens on a full-frame camera
HORIZON = 0.64  # the row of the horizon, as a share of the height

SUN_AZIMUTH = np.radians(-68.0)  # from the viewing direction, negative is left
SUN_ELEVATION = np.radians(21.0)
SUN = np.array(
    [
        np.cos(SUN_ELEVATION) * np.sin(SUN_AZIMUTH),
        np.cos(SUN_ELEVATION) * np.cos(SUN_AZIMUTH),
        np.sin(SUN_ELEVATION),
    ],
    dtype=np.float32,
)
SUN_COLOUR = np.array([1.62, 1.20, 0.78], dtype=np.float32)
SKY_COLOUR = np.array([0.20, 0.28, 0.42], dtype=np.float32)  # light from the whole sky, on what the sun misses
HAZE_COLOUR = np.array([0.50, 0.61, 0.78], dtype=np.float32)

rng = np.random.default_rng(SEED)
LATTICE = rng.random((256, 256), dtype=np.float32)


# ---------------------------------------------------------------- noise


def smoothstep(low, high, x):
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(a, b, t):
    return a + (b - a) * t


def noise(x, y, slopes=False):
    """Value noise in -1..1 with a lattice of 1; with its two slopes if they are asked for."""
    fx, fy = np.floor(x), np.floor(y)
    ix, iy = fx.astype(np.int32), fy.astype(np.int32)
    u, v = (x - fx).astype(np.float32), (y - fy).astype(np.float32)
    su, sv = (u * u * u * (u * (u * 6 - 15) + 10)), (v * v * v * (v * (v * 6 - 15) + 10))
    a = LATTICE[iy & 255, ix & 255]
    b = LATTICE[iy & 255, (ix + 1) & 255]
    c = LATTICE[(iy + 1) & 255, ix & 255]
    d = LATTICE[(iy + 1) & 255, (ix + 1) & 255]
    value = 2 * (a + (b - a) * su + (c - a) * sv + (a - b - c + d) * su * sv) - 1
    if not slopes:
        return value
    du, dv = 30 * u * u * (u * (u - 2) + 1), 30 * v * v * (v * (v - 2) + 1)
    k = a - b - c + d
    return value, 2 * du * ((b - a) + k * sv), 2 * dv * ((c - a) + k * su)


def fbm(x, y, octaves, gain=0.5):
    """Octaves of noise, each turned against the one before so that the lattice does not show."""
    total, weight, norm = 0.0, 1.0, 0.0
    for _ in range(octaves):
        total = total + weight * noise(x, y)
        norm += weight
        weight *= gain
        x, y = 1.6 * x - 1.2 * y + 17.3, 1.2 * x + 1.6 * y + 5.9
    return total / norm


def eroded(x, y, octaves):
    """Noise whose fine octaves fade where the coarse ones are steep: ridges stay sharp, valleys fill up."""
    total, weight = 0.0, 1.0
    sx, sy = 0.0, 0.0
    for _ in range(octaves):
        value, dx, dy = noise(x, y, slopes=True)
        sx, sy = sx + dx * 0.6, sy + dy * 0.6
        total = total + weight * value / (1.0 + sx * sx + sy * sy)
        weight *= 0.5
        x, y = 1.6 * x - 1.2 * y, 1.2 * x + 1.6 * y
    return total


def bilinear(grid, x, y):
    """Looks `grid` up at fractional places; it wraps around."""
    n, m = grid.shape[:2]
    fx, fy = np.floor(x), np.floor(y)
    ix, iy = fx.astype(np.int32), fy.astype(np.int32)
    u, v = (x - fx).astype(np.float32), (y - fy).astype(np.float32)
    if grid.ndim == 3:
        u, v = u[..., None], v[..., None]
    x0, x1, y0, y1 = ix % m, (ix + 1) % m, iy % n, (iy + 1) % n
    near = grid[y0, x0] * (1 - u) + grid[y0, x1] * u
    far = grid[y1, x0] * (1 - u) + grid[y1, x1] * u
    return near * (1 - v) + far * v


# ---------------------------------------------------------------- terrain


def hump(x, y, cx, cy, rx, ry):
    return np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)


def make_terrain(cells):
    metre = MAP_METRES / cells
    axis = (np.arange(cells, dtype=np.float32) + 0.5) * metre
    x, y = np.meshgrid(axis - MAP_METRES / 2, axis - 200.0)
    warp_x, warp_y = fbm(x / 900, y / 900, 4), fbm(x / 900 + 40, y / 900 + 9, 4)

    # The lake: an ellipse with a bitten shore. 0 on the shore, growing outwards.
    lx, ly = x + 260 * warp_x, y + 260 * warp_y
    shore = np.sqrt((lx / 900.0) ** 2 + ((ly - 900.0) / 1150.0) ** 2) - 1.0

    # Where the land stands high, as a smooth sum of humps; the noise then cuts it into ridges.
    mass = (
        1500 * hump(x, y, -350, 6300, 1900, 1700)
        + 900 * hump(x, y, 1500, 7800, 1600, 1800)
        + 900 * hump(x, y, -3600, 5200, 1700, 2300)
        + 950 * hump(x, y, 3700, 5000, 1500, 2200)
        + 480 * hump(x, y, -2100, 2300, 900, 1500)
        + 420 * hump(x, y, 2200, 2500, 900, 1300)
        + 700 * smoothstep(8000, 12000, y)
    )
    ridges = eroded(x / 1750 + 3.7, y / 1750 + 1.9, 12)
    fine = eroded(x / 420 + 8.1, y / 420 + 2.2, 9)
    height = mass * (0.80 + 0.62 * ridges) + 55 * fine * smoothstep(0, 500, mass)
    height = height + 70 * smoothstep(0.0, 0.7, shore) + 22 * fbm(x / 160, y / 160, 6) * smoothstep(0.02, 0.3, shore)
    height = np.maximum(height, 0.0) + 6 * smoothstep(0.0, 0.06, shore)
    height = np.where(shore < 0, np.minimum(40 * shore, -0.1), height * smoothstep(-0.01, 0.35, shore))
    return height.astype(np.float32), metre


def make_normals(height, metre):
    dy, dx = np.gradient(height, metre)
    normal = np.stack([-dx, -dy, np.ones_like(dx)], axis=-1)
    return (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)


def make_shadow(height, metre):
    """1 where the sun is seen, 0 where a ridge hides it, with a soft edge."""
    steepest = np.full(height.shape, -1.0, dtype=np.float32)
    ground = SUN[:2] / np.linalg.norm(SUN[:2])
    distance = 1.5 * metre
    while distance < 4200:
        sx, sy = int(round(ground[0] * distance / metre)), int(round(ground[1] * distance / metre))
        towards = np.roll(height, (-sy, -sx), axis=(0, 1))
        steepest = np.maximum(steepest, (towards - height) / distance)
        distance *= 1.045
    edge = np.tan(SUN_ELEVATION)
    return 1.0 - smoothstep(edge - 0.03, edge + 0.05, steepest)


def make_forest(cells=1024, tree_metres=5.2):
    """A tile of conifer tops in half metres: height above the ground, and a number for each tree's colour."""
    size = cells * 0.5
    per_side = int(size / tree_metres)
    top = np.zeros((cells, cells), dtype=np.float32)
    tint = np.zeros((cells, cells), dtype=np.float32)
    reach = 7
    offsets = np.arange(-reach, reach + 1)
    ox, oy = np.meshgrid(offsets, offsets)
    for gy in range(per_side):
        for gx in range(per_side):
            if rng.random() < 0.12:
                continue
            cx = (gx + rng.random()) * cells / per_side
            cy = (gy + rng.random()) * cells / per_side
            tall, wide, colour = rng.uniform(9, 22), rng.uniform(1.8, 3.1), rng.random()
            px, py = (int(cx) + ox), (int(cy) + oy)
            away = np.hypot(px - cx, py - cy) * 0.5 / wide
            cone = tall * np.maximum(0.0, 1.0 - away**0.9)
            px, py = px % cells, py % cells
            higher = cone > top[py, px]
            top[py, px] = np.where(higher, cone, top[py, px])
            tint[py, px] = np.where(higher, colour, tint[py, px])
    return top, tint


def make_stones(cells=1024, metres=16.0):
    """A tile of shore stones: domes of all sizes, the big ones few. Height in metres, and a number for each colour."""
    top = np.zeros((cells, cells), dtype=np.float32)
    tint = np.zeros((cells, cells), dtype=np.float32)
    scale = cells / metres
    for _ in range(9000):
        radius = min(0.045 * (1.0 / (1.0 - rng.random() * 0.999)) ** 0.56, 1.05)
        cx, cy = rng.random(2) * cells
        reach = int(radius * scale * 1.5) + 2
        offsets = np.arange(-reach, reach + 1)
        ox, oy = np.meshgrid(offsets, offsets)
        px, py = int(cx) + ox, int(cy) + oy
        angle, flat = rng.random() * np.pi, rng.uniform(0.6, 1.0)
        dx, dy = (px - cx) / (radius * scale), (py - cy) / (radius * scale)
        u, v = dx * np.cos(angle) + dy * np.sin(angle), (-dx * np.sin(angle) + dy * np.cos(angle)) / flat
        # A power above 2 gives shoulders: stones are boulders, not balls.
        away = np.abs(u) ** 2.6 + np.abs(v) ** 2.6 + 0.25 * noise(px * 0.07 + cx, py * 0.07 + cy)
        dome = radius * rng.uniform(0.5, 0.8) * np.sqrt(np.maximum(0.0, 1.0 - away))
        px, py = px % cells, py % cells
        higher = dome > top[py, px]
        top[py, px] = np.where(higher, dome, top[py, px])
        tint[py, px] = np.where(higher, rng.random(), tint[py, px])
    return top, tint


class Scene:
    def __init__(self, cells):
        self.height, self.metre = make_terrain(cells)
        self.normal = make_normals(self.height, self.metre)
        self.shadow = make_shadow(self.height, self.metre)
        self.forest, self.forest_tint = make_forest()
        self.stones, self.stone_tint = make_stones()
        self.stone_normal = make_normals(self.stones, 16.0 / 1024)
        self.forest_normal = make_normals(self.forest * 0.35, 0.5)

    def on_map(self, grid, x, y):
        return bilinear(grid, (x + MAP_METRES / 2) / self.metre - 0.5, (y + 200.0) / self.metre - 0.5)

    def near_bank(self, x, y):
        """The bank the camera stands on, which the map is too coarse for: a slope into the water, then stones."""
        edge = 25.5 + 4.0 * noise(x * 0.09 + 3, x * 0 + 0.5) + 1.2 * noise(x * 0.6, y * 0.6) - 0.10 * x
        rise = (edge - y) * 0.085
        return np.where(y < 60, np.clip(rise, -3.0, 2.6) + 0.10 * fbm(x * 0.5, y * 0.5, 3), -3.0)

    def wooded(self, x, y, ground, steep):
        """How densely trees stand, 0..1."""
        patches = fbm(x / 230.0, y / 230.0, 5)
        line = 560 + 260 * fbm(x / 700.0 + 4, y / 700.0, 4)
        return (
            smoothstep(-0.32, -0.02, patches)
            * smoothstep(3.0, 9.0, ground)
            * (1 - smoothstep(line - 120, line + 60, ground))
            * smoothstep(0.52, 0.70, steep)
        )

    def surface(self, x, y):
        """Height of whatever stands there: ground and trees, or the near bank with its stones."""
        ground = self.on_map(self.height, x, y)
        steep = self.on_map(self.normal[..., 2], x, y)
        trees = bilinear(self.forest, x * 2.0, y * 2.0)
        woods = self.wooded(x, y, ground, steep)
        top = ground + trees * smoothstep(0.15, 0.6, woods)
        near = (y < 60) & (np.abs(x) < 90)
        if near.any():
            bank = self.near_bank(x, y) + bilinear(self.stones, x * 64.0, y * 64.0)
            top = np.where(near, bank, top)
        return top


# ---------------------------------------------------------------- march


def march(scene, columns, slopes, eye, start):
    """Distance along the ground at which each ray meets the scene, `inf` where it meets the sky.

    `columns` are tangents to the side and `slopes` tangents upwards, so that a ray at distance t stands at
    (t * column, t) and eye + t * slope. A ray that starts below the water (a reflection) only meets what is above it;
    nothing nearer than `start` is met.
    """
    distances = [start]
    while distances[-1] < MAP_METRES - 500:
        distances.append(distances[-1] * 1.0011 + 0.004)
    distances = np.array(distances, dtype=np.float32)
    reach = np.empty((len(distances), len(columns)), dtype=np.float32)
    best = np.full(len(columns), -np.inf, dtype=np.float32)
    for k, t in enumerate(distances):
        top = scene.surface(columns * t, np.full_like(columns, t))
        top = np.where(top > 0.0, top, -1e6)
        best = np.maximum(best, (top - eye) / t)
        reach[k] = best
    hit = np.empty((len(slopes), len(columns)), dtype=np.float32)
    padded = np.append(distances, np.inf).astype(np.float32)
    for c in range(len(columns)):
        hit[:, c] = padded[np.searchsorted(reach[:, c], slopes)]
    return hit


# ---------------------------------------------------------------- shade


def shade_land(scene, x, y, distance):
    ground = scene.on_map(scene.height, x, y)
    normal = scene.on_map(scene.normal, x, y)
    lit = scene.on_map(scene.shadow, x, y)
    steep = normal[..., 2]
    woods = smoothstep(0.15, 0.6, scene.wooded(x, y, ground, steep))

    # Small roughness that the map does not hold, fading where a pixel covers more than it.
    for size, strength in ((60.0, 0.20), (14.0, 0.20), (3.0, 0.16)):
        seen = strength * np.clip(size * 900 / distance, 0, 1)
        _, sx, sy = noise(x / size, y / size, slopes=True)
        normal = normal + np.stack([-sx * seen * (1 - woods), -sy * seen * (1 - woods), 0 * sx], axis=-1) * 0.6
    tree_normal = bilinear(scene.forest_normal, x * 2.0, y * 2.0)
    blend = (woods * np.clip(1800 / distance, 0.15, 0.8))[..., None]
    normal = normal * (1 - blend) + tree_normal * blend
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)

    speck = fbm(x / 9.0, y / 9.0, 4)[..., None]
    patch = fbm(x / 120.0 + 7, y / 120.0, 5)[..., None]
    bands = noise(ground / 23.0 + 3 * patch[..., 0], x / 900.0)[..., None]
    rock = np.array([0.235, 0.215, 0.195], dtype=np.float32) * (1 + 0.28 * speck + 0.22 * bands + 0.25 * patch)
    scree = np.array([0.30, 0.275, 0.24], dtype=np.float32) * (1 + 0.22 * speck)
    meadow = mix(
        np.array([0.115, 0.135, 0.035], dtype=np.float32),
        np.array([0.21, 0.165, 0.055], dtype=np.float32),
        smoothstep(-0.5, 0.6, patch + 0.5 * speck),
    )
    colour = mix(rock, scree, smoothstep(0.60, 0.75, steep)[..., None])
    grassy = smoothstep(0.66, 0.84, steep + 0.10 * patch[..., 0]) * (1 - smoothstep(620, 1000, ground + 190 * patch[..., 0]))
    colour = mix(colour, meadow, grassy[..., None])

    # Spruces, with larches gone golden among them, in stands rather than alone.
    tint = bilinear(scene.forest_tint, np.round(x * 2.0), np.round(y * 2.0))[..., None]
    spruce = np.array([0.030, 0.052, 0.022], dtype=np.float32) * (0.65 + 0.8 * tint)
    larch = np.array([0.25, 0.135, 0.022], dtype=np.float32) * (0.6 + 0.7 * tint)
    golden = smoothstep(0.62, 0.74, tint * 0.75 + 0.55 * fbm(x / 210.0 + 31, y / 210.0, 4)[..., None] + 0.12)
    up_tree = np.clip(bilinear(scene.forest, x * 2.0, y * 2.0) / 14.0, 0, 1)[..., None]
    trees = mix(spruce, larch, golden) * (0.35 + 0.85 * up_tree)
    colour = mix(colour, trees, woods[..., None])

    snow_line = 870 + 260 * patch[..., 0] - 120 * normal[..., 1]
    snow = smoothstep(snow_line, snow_line + 190, ground) * smoothstep(0.50, 0.70, steep + 0.12 * speck[..., 0])
    colour = mix(colour, np.array([0.86, 0.88, 0.92], dtype=np.float32), snow[..., None])

    sun = np.clip(normal @ SUN, 0, 1) * lit
    sky = 0.45 + 0.55 * normal[..., 2]
    bounce = 0.10 * np.clip(-(normal[..., 0] * SUN[0] + normal[..., 1] * SUN[1]), 0, 1)
    return colour * (
        2.1 * sun[..., None] * SUN_COLOUR + sky[..., None] * SKY_COLOUR + bounce[..., None] * SUN_COLOUR
    )


def shade_bank(scene, x, y, wet_level):
    bank = scene.near_bank(x, y)
    stones = bilinear(scene.stones, x * 64.0, y * 64.0)
    normal = bilinear(scene.stone_normal, x * 64.0, y * 64.0)
    _, sx, sy = noise(x * 23.0, y * 23.0, slopes=True)
    normal = normal + np.stack([-0.10 * sx, -0.10 * sy, 0 * sx], axis=-1)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    tint = bilinear(scene.stone_tint, np.round(x * 64.0), np.round(y * 64.0))[..., None]
    speck = fbm(x * 18.0, y * 18.0, 4)[..., None]
    grey = np.array([0.150, 0.150, 0.148], dtype=np.float32)
    warm = np.array([0.20, 0.150, 0.105], dtype=np.float32)
    colour = mix(grey, warm, smoothstep(0.45, 0.9, tint)) * (0.55 + 0.75 * ((tint * 7.3) % 1.0)) * (1 + 0.35 * speck)
    gravel = np.array([0.10, 0.085, 0.068], dtype=np.float32) * (1 + 0.6 * speck)
    colour = mix(gravel, colour, smoothstep(0.0, 0.03, stones)[..., None])
    # Stones near the water are wet, hence darker; deep between them little light arrives.
    wet = 1 - smoothstep(0.02, 0.16 + 0.05 * speck[..., 0], bank + stones - wet_level)
    colour = colour * (1 - 0.55 * wet[..., None])
    hollow = 0.35 + 0.65 * smoothstep(0.0, 0.22, stones)
    sun = np.clip(normal @ SUN, 0, 1) * hollow
    return colour * (2.1 * sun[..., None] * SUN_COLOUR + (hollow * (0.4 + 0.6 * normal[..., 2]))[..., None] * SKY_COLOUR)


def shade_sky(column, slope):
    direction = np.stack([column, np.ones_like(column), slope], axis=-1)
    direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    up = np.clip(direction[..., 2], 0.0, 1)[..., None]
    towards_sun = np.clip(direction @ SUN, 0, 1)[..., None]
    zenith = np.array([0.085, 0.20, 0.47], dtype=np.float32)
    low = np.array([0.58, 0.69, 0.83], dtype=np.float32)
    colour = mix(low, zenith, 1 - np.exp(-up * 5.2))
    colour = colour + np.array([0.55, 0.36, 0.16], dtype=np.float32) * (towards_sun**3) * 0.55

    # Clouds: noise on a plane, looked at along the ray; lit by how much thinner they are towards the sun.
    t = 2300.0 / np.maximum(direction[..., 2], 0.012)
    px, py = direction[..., 0] * t, direction[..., 1] * t

    def density(qx, qy):
        bend = fbm(qx / 5200 + 11, qy / 5200, 3)
        field = fbm(qx / 2600 + 1.1 * bend + 2.4, qy / 3400 + 0.9 * bend + 6.3, 8, gain=0.56)
        cover = 0.10 + 0.22 * noise(qx / 14000 + 0.8, qy / 14000 + 0.3)
        return smoothstep(-0.08, 0.50, field - 0.12 + cover)

    here = density(px, py)
    there = density(px + SUN[0] * 420, py + SUN[1] * 420)
    thick = smoothstep(0.15, 1.0, here)
    light = np.clip(0.92 + 0.75 * (here - there) - 0.42 * thick, 0.30, 1.25)[..., None]
    cloud = mix(np.array([0.47, 0.51, 0.60], dtype=np.float32), np.array([1.22, 1.12, 1.00], dtype=np.float32), light)
    veil = (here * smoothstep(0.02, 0.16, direction[..., 2]))[..., None]
    return mix(colour, cloud, np.clip(veil * 0.95, 0, 1))


def add_haze(colour, column, slope, distance, eye):
    """Air between the eye and the thing: blue takes over with distance, thinner higher up."""
    height = eye + slope * distance
    thin = np.exp(-np.clip(height, 0, None) / 2200.0)
    amount = 1 - np.exp(-distance[..., None] * np.array([0.34e-4, 0.46e-4, 0.66e-4], dtype=np.float32) * thin[..., None])
    mist = 0.10 * np.exp(-((np.clip(height, 0, None) / 55.0) ** 2)) * smoothstep(900, 2600, distance)
    amount = np.clip(amount + mist[..., None], 0, 1)
    glow = np.clip((column * SUN[0] + SUN[1]) / np.sqrt(1 + column**2), 0, 1)[..., None]
    return mix(colour, HAZE_COLOUR + np.array([0.30, 0.16, 0.02], dtype=np.float32) * glow**2, amount)


def render_view(scene, columns, slopes, eye, start=9.0):
    """Everything but the water, as seen from `eye` above (or below) it; with the distance of each pixel."""
    hit = march(scene, columns, slopes, eye, start)
    column, slope = np.broadcast_arrays(columns[None, :], slopes[:, None])
    picture = np.empty(hit.shape + (3,), dtype=np.float32)
    for rows in np.array_split(np.arange(len(slopes)), max(1, len(slopes) // 100)):
        c, s, t = column[rows], slope[rows], hit[rows]
        out = shade_sky(c, s)
        land = np.isfinite(t)
        if land.any():
            lc, ls, lt = c[land], s[land], t[land]
            x = lc * lt
            near = lt < 60
            shaded = np.empty(lt.shape + (3,), dtype=np.float32)
            if near.any():
                shaded[near] = shade_bank(scene, x[near], lt[near], 0.0)
            if (~near).any():
                far = ~near
                shaded[far] = shade_land(scene, x[far], lt[far], lt[far])
                shaded[far] = add_haze(shaded[far], lc[far], ls[far], lt[far], eye)
            out[land] = shaded
        picture[rows] = out
    return picture, hit


# ---------------------------------------------------------------- water


def add_water(scene, picture, hit, columns, slopes):
    mirror_slopes = np.linspace(-0.02, 0.72, int(len(slopes) * 1.1)).astype(np.float32)
    # The bank under our feet is behind the water, so it must not stand in the way of what the water mirrors.
    mirrored, _ = render_view(scene, columns, mirror_slopes, -CAMERA_HEIGHT, start=60.0)
    column, slope = np.broadcast_arrays(columns[None, :], slopes[:, None])
    t = np.where(slope < -1e-4, CAMERA_HEIGHT / np.maximum(-slope, 1e-4), np.inf).astype(np.float32)
    wet = t < hit
    c, s, d = column[wet], slope[wet], t[wet]
    x, y = c * d, d

    # Ripples: waves of several lengths, each fading where a pixel is longer than it; patches of calm between.
    tilt_x, tilt_y = np.zeros_like(d), np.zeros_like(d)
    breeze = 0.13 + 0.60 * smoothstep(-0.05, 0.50, fbm(x / 170.0 + 3, y / 420.0, 4))
    pixel = d * d / (CAMERA_HEIGHT * FOCAL * WIDTH)  # how far along the water a pixel reaches
    for length, tilt in ((7.0, 0.010), (2.6, 0.013), (1.1, 0.014), (0.45, 0.013), (0.2, 0.010)):
        fade = np.clip(length / (pixel + 1e-3), 0.0, 1.0) ** 0.6
        _, sx, sy = noise(x / length + 0.3 * y / length, y / (0.55 * length), slopes=True)
        tilt_x += tilt * sx * fade * breeze * 0.7
        tilt_y += tilt * sy * fade * breeze
    up = -s - 2.0 * tilt_y * (1 + s)
    # What the pixel averages over: far water reflects a streak, so the picture below is looked up higher on average.
    up = np.abs(up) + 0.010 * breeze * smoothstep(60, 900, d)
    side = c + 2.0 * tilt_x
    cx = np.interp(side, columns, np.arange(len(columns)))
    cy = np.interp(up, mirror_slopes, np.arange(len(mirror_slopes)))
    reflected = bilinear(mirrored, np.clip(cx, 0, len(columns) - 1.001), np.clip(cy, 0, len(mirror_slopes) - 1.001))

    facing = np.clip(-s + tilt_y * 1.5, 0.0, 1.0)
    fresnel = (0.02 + 0.98 * (1 - facing / np.sqrt(1 + facing**2)) ** 5)[..., None]
    depth = np.clip(-scene.near_bank(x, y), 0.0, 3.0)[..., None]
    bed = np.where((d < 60)[..., None], shade_bank(scene, x, y, 5.0) * 0.9, 0.0)
    deep = np.array([0.012, 0.060, 0.068], dtype=np.float32)
    clear = np.exp(-depth * np.array([2.4, 1.15, 1.3], dtype=np.float32))
    body = mix(deep, bed, clear)
    water = mix(body, reflected, np.clip(fresnel * 1.04, 0, 1))
    haze = (1 - np.exp(-d * 0.9e-4))[..., None]
    picture[wet] = mix(water, HAZE_COLOUR, haze)


# ---------------------------------------------------------------- camera


def blur(image, radius):
    """Three box blurs along each axis, which is close to a Gaussian."""
    for axis in (0, 1):
        for _ in range(3):
            pad = [(radius + 1, radius) if a == axis else (0, 0) for a in range(3)]
            total = np.cumsum(np.pad(image, pad, mode="edge"), axis=axis, dtype=np.float64)
            n = image.shape[axis]
            high = np.take(total, np.arange(2 * radius + 1, 2 * radius + 1 + n), axis=axis)
            low = np.take(total, np.arange(n), axis=axis)
            image = ((high - low) / (2 * radius + 1)).astype(np.float32)
    return image


def develop(linear):
    """Light to film: bloom, vignetting, a filmic curve, a little more colour, grain."""
    h, w = linear.shape[:2]
    bright = np.clip(linear - 0.9, 0, 2)
    linear = linear + 0.10 * blur(bright, w // 70) + 0.025 * blur(linear, w // 25)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    off = np.hypot((x - w / 2) / (w / 2), (y - h / 2) / (w / 2))
    linear = linear * (1 - 0.24 * smoothstep(0.45, 1.25, off))[..., None]
    v = linear * 1.08
    film = np.clip((v * (2.51 * v + 0.03)) / (v * (2.43 * v + 0.59) + 0.14), 0, 1)
    grey = film @ np.array([0.30, 0.59, 0.11], dtype=np.float32)
    film = np.clip(grey[..., None] + (film - grey[..., None]) * 1.16, 0, 1)
    display = np.where(film <= 0.0031308, film * 12.92, 1.055 * film ** (1 / 2.4) - 0.055)
    grain = rng.normal(0, 1, (h, w, 1)).astype(np.float32) + 0.35 * rng.normal(0, 1, (h, w, 3)).astype(np.float32)
    display = display + grain * 0.0095 * (1.15 - display)
    return (np.clip(display, 0, 1) * 255 + 0.5).astype(np.uint8)


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else "lake.jpg"
    draft = "--draft" in sys.argv
    shrink, over, cells = (2, 1, 2048) if draft else (1, 2, 4096)
    width, height = WIDTH // shrink * over, HEIGHT // shrink * over
    columns = (((np.arange(width) + 0.5) / width - 0.5) / FOCAL).astype(np.float32)
    slopes = ((HORIZON * height - np.arange(height) - 0.5) / (FOCAL * width)).astype(np.float32)

    scene = Scene(cells)
    picture, hit = render_view(scene, columns, slopes, CAMERA_HEIGHT)
    add_water(scene, picture, hit, columns, slopes)
    # Brightest values are cut before averaging, or a glint would keep its staircase edge.
    picture = np.clip(picture, 0, 4)
    picture = picture.reshape(height // over, over, width // over, over, 3).mean(axis=(1, 3))
    Image.fromarray(develop(picture)).save(target, quality=85, optimize=True, progressive=False)


if __name__ == "__main__":
    main()
