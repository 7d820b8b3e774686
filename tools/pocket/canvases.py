"""Procedurally drawn still pictures with natural-image statistics, larger than a video frame.

A canvas is `[size, size, 3]` uint8: 1/f noise and gradients, dead leaves with a power law of sizes, polygons, lines and
text-like strokes, sharp or blurred. A moving camera looks at it (`camera.py`). No photograph is used anywhere.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CANVAS_SIZE = 384
DRAW_SIZE = 512  # drawn larger and reduced, so that edges are anti-aliased


def noise_texture(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """1/f^exponent noise, `[size, size]` float32 with mean 0 and standard deviation 1."""
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :]
    radius = np.sqrt(fy**2 + (fx * rng.uniform(0.6, 1.6)) ** 2)
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / radius**exponent
    spectrum[0, 0] = 0.0
    texture = np.fft.irfft2(spectrum, s=(size, size))
    return (texture / (texture.std() + 1e-9)).astype(np.float32)


class TextureBank:
    """A few noise textures, re-used by rolling, flipping and transposing: FFTs are the slow part of drawing."""

    def __init__(self, rng: np.random.Generator, count: int = 32, size: int = DRAW_SIZE) -> None:
        self.textures = [noise_texture(rng, size, rng.uniform(0.35, 1.6)) for _ in range(count)]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One texture, `[size, size]` float32."""
        texture = self.textures[rng.integers(len(self.textures))]
        texture = np.roll(texture, tuple(rng.integers(0, texture.shape[0], 2)), axis=(0, 1))
        texture = texture[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        return texture.T if rng.random() < 0.5 else texture


def random_palette(rng: np.random.Generator) -> np.ndarray:
    """A few colours that go together, `[n, 3]` in 0..255: saturation and brightness vary from picture to picture."""
    count = int(rng.integers(3, 9))
    value = rng.beta(1.2, 1.2, (count, 1)) * 255
    tint = rng.normal(0, 1, (1, 3)) * rng.uniform(0, 40)
    own = rng.normal(0, 1, (count, 3)) * rng.uniform(5, 70)
    return np.clip(value + tint + own, 0, 255)


def _pick(rng: np.random.Generator, palette: np.ndarray, spread: float = 14.0) -> tuple[int, int, int]:
    colour = palette[rng.integers(len(palette))] + rng.normal(0, spread, 3)
    r, g, b = np.clip(colour, 0, 255).astype(int)
    return int(r), int(g), int(b)


def _ground(rng: np.random.Generator, bank: TextureBank, palette: np.ndarray) -> np.ndarray:
    """A gradient between two colours with 1/f noise on it, `[DRAW_SIZE, DRAW_SIZE, 3]` float32."""
    grid = np.linspace(-1, 1, DRAW_SIZE, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None])[..., None] * 0.35 + 0.5
    first, second = (palette[i] for i in rng.choice(len(palette), 2))
    picture = first * ramp + second * (1 - ramp)
    luminance = bank.draw(rng)[..., None] * rng.gamma(1.5, 16)
    chroma = bank.draw(rng)[..., None] * rng.normal(0, 12, 3)
    return picture + luminance + chroma


def _polygon(rng: np.random.Generator, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    corners = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = radius * rng.uniform(0.5, 1.2, corners)
    return [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)]


def _leaf(rng: np.random.Generator, draw: ImageDraw.ImageDraw, radius: float, fill: int | tuple[int, int, int]) -> None:
    """One shape somewhere on the picture: ellipse, rectangle, polygon or bar."""
    x, y = rng.uniform(0, DRAW_SIZE, 2)
    kind, aspect = rng.integers(0, 4), np.exp(rng.normal(0, 0.5))
    box = [x - radius * aspect, y - radius / aspect, x + radius * aspect, y + radius / aspect]
    if kind == 0:
        draw.ellipse(box, fill=fill)
    elif kind == 1:
        draw.rectangle(box, fill=fill)
    elif kind == 2:
        draw.polygon(_polygon(rng, x, y, radius), fill=fill)
    else:
        end = (x + rng.normal(0, 4 * radius), y + rng.normal(0, 4 * radius))
        draw.line([(x, y), end], fill=fill, width=max(1, int(radius * 0.4)))


def _dead_leaves(rng: np.random.Generator, picture: Image.Image, palette: np.ndarray, count: int) -> None:
    draw = ImageDraw.Draw(picture)
    smallest, largest = rng.uniform(1.5, 8), rng.uniform(40, 180)
    radii = (smallest**-1.5 + rng.random(count) * (largest**-1.5 - smallest**-1.5)) ** (-1 / 1.5)
    order = np.sort(radii)[::-1] if rng.random() < 0.7 else radii
    for radius in order:
        _leaf(rng, draw, float(radius), _pick(rng, palette))


def _textured_leaves(rng: np.random.Generator, bank: TextureBank, picture: Image.Image, palette: np.ndarray) -> None:
    """A few large shapes, each filled with its own noise: surfaces rather than flat paint."""
    for _ in range(int(rng.integers(0, 6))):
        mask = Image.new("L", picture.size)
        _leaf(rng, ImageDraw.Draw(mask), float(rng.uniform(40, 170)), 255)
        if rng.random() < 0.3:
            mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(2, 25)))
        surface = np.clip(_ground(rng, bank, palette), 0, 255).astype(np.uint8)
        picture.paste(Image.fromarray(surface), (0, 0), mask)


def _strokes(rng: np.random.Generator, picture: Image.Image, palette: np.ndarray) -> None:
    """Rows of short thin strokes, like writing, and a few long thin lines."""
    draw = ImageDraw.Draw(picture)
    x0, y0, pitch = rng.uniform(0, 350), rng.uniform(0, 400), rng.uniform(7, 26)
    colour, width = _pick(rng, palette), int(rng.integers(1, 4))
    for i in range(int(rng.integers(10, 60))):
        x, y = x0 + (i % 12) * pitch, y0 + (i // 12) * pitch * 1.6
        points = [(x + dx, y + dy) for dx, dy in rng.uniform(0, pitch, (4, 2))]
        draw.line(points, fill=colour, width=width)
    for _ in range(int(rng.integers(0, 12))):
        (xa, ya), (xb, yb) = rng.uniform(0, DRAW_SIZE, (2, 2))
        draw.line([(xa, ya), (xb, yb)], fill=_pick(rng, palette), width=int(rng.integers(1, 4)))


def _grade(rng: np.random.Generator, bank: TextureBank, picture: Image.Image) -> np.ndarray:
    """Blur, shading, grain and contrast over the whole picture; reduced to `[CANVAS_SIZE, CANVAS_SIZE, 3]` uint8."""
    if rng.random() < 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 4)))
    reduced = picture.resize((CANVAS_SIZE, CANVAS_SIZE), Image.Resampling.LANCZOS)
    pixels = np.asarray(reduced, dtype=np.float32)
    shade = np.asarray(Image.fromarray(bank.draw(rng)).resize(reduced.size, Image.Resampling.BILINEAR))
    pixels = pixels * (1 + shade[..., None] * rng.uniform(0, 0.25))
    grain = bank.draw(rng)[:CANVAS_SIZE, :CANVAS_SIZE, None] * rng.uniform(0, 10)
    pixels = (pixels - 127.5) * rng.uniform(0.7, 1.4) + 127.5 + rng.normal(0, 15) + grain
    return np.clip(pixels, 0, 255).astype(np.uint8)


def draw_canvas(rng: np.random.Generator, bank: TextureBank) -> np.ndarray:
    """One canvas, `[CANVAS_SIZE, CANVAS_SIZE, 3]` uint8."""
    palette = random_palette(rng)
    picture = Image.fromarray(np.clip(_ground(rng, bank, palette), 0, 255).astype(np.uint8))
    if rng.random() < 0.85:
        _dead_leaves(rng, picture, palette, int(np.exp(rng.uniform(np.log(10), np.log(2500)))))
    _textured_leaves(rng, bank, picture, palette)
    if rng.random() < 0.3:
        _dead_leaves(rng, picture, palette, int(rng.integers(2, 12)))
    if rng.random() < 0.4:
        _strokes(rng, picture, palette)
    return _grade(rng, bank, picture)


def draw_canvases(seed: int, count: int) -> np.ndarray:
    """Many canvases from one seed, `[count, CANVAS_SIZE, CANVAS_SIZE, 3]` uint8."""
    rng = np.random.default_rng(seed)
    bank = TextureBank(rng)
    return np.stack([draw_canvas(rng, bank) for _ in range(count)])
