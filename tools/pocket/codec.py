"""The pocket's VAE: configuration, starting weights, and its latents.

The encoder starts as an exact linear codec (principal components of 8x8 blocks) and is trained from there. Its temporal
taps stay zero except the newest, so a latent frame shows one instant (video frame 4t) and a clip encodes frame by
frame; the decoder draws the frames between two instants.

Shape legend: B clips, T latent frames, F = 4T-3 video frames, h x w latent pixels, 8h x 8w pixels.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoCausalConv3d
from torch import nn

LATENT_CHANNELS = 16
BLOCK = 8
LOG_VARIANCE = -7.0
WHITENING = 0.65  # 1 would give every component the same variance, 0 the variance it has in the picture
CONSTANT = 4.0  # height of the constant channels that keep the group norms from hiding contrast


def make_vae() -> AutoencoderKLHunyuanVideo:
    """The architecture with diffusers' random weights."""
    return AutoencoderKLHunyuanVideo(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 48, 64, 96),
        layers_per_block=1,
        norm_num_groups=1,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def principal_components(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The codec's matrix from blocks `[N, 192]` (order: channel, row, column) in -1..1.

    Returns:
        Analysis matrix `[16, 192]`, whose outputs have a mean square of about 1 over all channels, and offsets `[16]`.
    """
    mean = blocks.mean(0)
    _, spread, components = torch.linalg.svd(blocks - mean, full_matrices=False)
    std = spread[:LATENT_CHANNELS] / len(blocks) ** 0.5
    gain = std**-WHITENING
    gain = gain / ((gain * std).square().mean().sqrt())
    matrix = components[:LATENT_CHANNELS] * gain[:, None]
    return matrix, -(matrix @ mean)


def _zero_residuals(module: nn.Module) -> None:
    for name, conv in module.named_modules():
        if isinstance(conv, HunyuanVideoCausalConv3d) and name.endswith("conv2"):
            nn.init.zeros_(conv.conv.weight)
            nn.init.zeros_(conv.conv.bias)


def _clear(conv: nn.Conv3d) -> torch.Tensor:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv.weight.data


def _space_to_depth(conv: nn.Conv3d, channels: int) -> None:
    """Strided 3x3x3 convolution that moves 2x2 pixels of `channels` features into 4 * channels features."""
    weight = _clear(conv)
    for row in range(2):
        for column in range(2):
            for channel in range(channels):
                weight[(row * 2 + column) * channels + channel, channel, -1, 1 + row, 1 + column] = 1.0


def _identity(conv: nn.Conv3d, channels: int, middle: int) -> torch.Tensor:
    weight = _clear(conv)
    for channel in range(channels):
        weight[channel, channel, -1, middle, middle] = 1.0
    return weight


def _position_of(channel: int, row: int, column: int) -> int:
    """Feature that holds a pixel (0..3 in each axis) after two space-to-depth steps."""
    inner = ((row % 2) * 2 + column % 2) * 3 + channel
    return ((row // 2) * 2 + column // 2) * 12 + inner


def _load_matrix(conv: nn.Conv3d, matrix: torch.Tensor) -> None:
    weight = _clear(conv)
    taps = matrix.reshape(LATENT_CHANNELS, 3, BLOCK, BLOCK)
    for channel in range(3):
        for row in range(BLOCK):
            for column in range(BLOCK):
                source = _position_of(channel, row % 4, column % 4)
                weight[:LATENT_CHANNELS, source, -1, 1 + row // 4, 1 + column // 4] = taps[:, channel, row, column]


def start_as_linear_codec(vae: AutoencoderKLHunyuanVideo, matrix: torch.Tensor, offset: torch.Tensor) -> None:
    """Write the linear codec into the encoder; silu(a) - silu(-a) = a carries it through the last activation."""
    encoder, n = vae.encoder, LATENT_CHANNELS
    _zero_residuals(vae)
    _identity(encoder.conv_in.conv, 3, 1)
    blocks = encoder.down_blocks
    _space_to_depth(blocks[0].downsamplers[0].conv.conv, 3)
    _identity(blocks[1].resnets[0].conv_shortcut.conv, 12, 0)
    _space_to_depth(blocks[1].downsamplers[0].conv.conv, 12)
    _identity(blocks[2].resnets[0].conv_shortcut.conv, 48, 0)
    _load_matrix(blocks[2].downsamplers[0].conv.conv, matrix)
    _both_signs(blocks[3].resnets[0].conv_shortcut.conv, offset)
    _read_both_signs(encoder.conv_out.conv, encoder.conv_norm_out.num_channels)
    _identity(vae.quant_conv, 2 * n, 0)
    fix_variance(vae)
    _identity(vae.post_quant_conv, n, 0)
    shortcut = vae.decoder.up_blocks[3].resnets[0].conv_shortcut.conv
    shortcut.bias.data[12:14], shortcut.bias.data[14:] = 1.0, -1.0


@torch.no_grad()
def fix_variance(vae: AutoencoderKLHunyuanVideo) -> None:
    """A constant posterior variance. It is not trained, and the features that it is read from may serve the mean."""
    vae.quant_conv.weight[LATENT_CHANNELS:] = 0
    vae.quant_conv.bias[LATENT_CHANNELS:] = LOG_VARIANCE


def _both_signs(conv: nn.Conv3d, offset: torch.Tensor) -> None:
    n, weight = LATENT_CHANNELS, _clear(conv)
    for channel in range(n):
        weight[channel, channel], weight[n + channel, channel] = 1.0, -1.0
    conv.bias.data[:n], conv.bias.data[n : 2 * n] = offset, -offset
    half = (weight.shape[0] - 2 * n) // 2
    conv.bias.data[2 * n : 2 * n + half], conv.bias.data[2 * n + half :] = CONSTANT, -CONSTANT


def _read_both_signs(conv: nn.Conv3d, channels: int) -> None:
    n, weight = LATENT_CHANNELS, _clear(conv)
    spread = ((2 * n + (channels - 2 * n) * CONSTANT**2) / channels) ** 0.5
    for channel in range(n):
        weight[channel, channel, -1, 1, 1], weight[channel, n + channel, -1, 1, 1] = spread, -spread
    conv.bias.data[n:] = LOG_VARIANCE


def keep_instants(vae: AutoencoderKLHunyuanVideo) -> None:
    """Zero the encoder's older temporal taps and keep them zero while it is trained."""

    def only_newest(gradient: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(gradient)
        kept[:, :, -1] = gradient[:, :, -1]
        return kept

    for module in vae.encoder.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data[:, :, :-1] = 0
            module.weight.register_hook(only_newest)


@torch.no_grad()
def show_instants(vae: AutoencoderKLHunyuanVideo) -> None:
    """Give the decoder's newest temporal taps the weight of all three: single frames decode as before, clips step.

    What was trained on single frames smears moving clips, because nothing told its three taps apart.
    """
    for module in vae.decoder.modules():
        if isinstance(module, HunyuanVideoCausalConv3d) and module.conv.kernel_size[0] == 3:
            weight, older = module.conv.weight, 0.1 * module.conv.weight[:, :, :2]
            weight[:, :, 2] += weight[:, :, :2].sum(2) - older.sum(2)
            weight[:, :, :2] = older


def fast_causal_conv(self: HunyuanVideoCausalConv3d, hidden_states: torch.Tensor) -> torch.Tensor:
    """The same convolution as diffusers' for one frame, as a 2-D one: replicate padding repeats that frame."""
    if hidden_states.shape[2] > 1:
        hidden_states = nn.functional.pad(hidden_states, self.time_causal_padding, mode=self.pad_mode)
        return self.conv(hidden_states)
    left = self.time_causal_padding
    frame = hidden_states.squeeze(2)
    if left[0]:
        frame = nn.functional.pad(frame, left[:4], mode=self.pad_mode)
    weight = self.conv.weight.sum(2)
    return nn.functional.conv2d(frame, weight, self.conv.bias, self.conv.stride[1:]).unsqueeze(2)


def use_fast_convolutions(vae: AutoencoderKLHunyuanVideo) -> None:
    """Train and encode single frames about three times faster; outputs are the same."""
    for module in vae.modules():
        if isinstance(module, HunyuanVideoCausalConv3d):
            module.forward = fast_causal_conv.__get__(module)


def encode_frames(vae: AutoencoderKLHunyuanVideo, frames: torch.Tensor) -> torch.Tensor:
    """Posterior means of single pictures, unscaled: `[N, 3, H, W]` in -1..1 -> `[N, 16, h, w]`."""
    moments = vae.quant_conv(vae.encoder(frames.unsqueeze(2)))
    return moments[:, :LATENT_CHANNELS, 0]


def decode_latents(vae: AutoencoderKLHunyuanVideo, latents: torch.Tensor) -> torch.Tensor:
    """Unscaled latents `[B, 16, T, h, w]` -> `[B, 3, 4T-3, H, W]`."""
    return vae.decoder(vae.post_quant_conv(latents))


def psnr(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean over the batch of the peak signal-to-noise ratio in dB, both in -1..1."""
    error = (made.float().clamp(-1, 1) - wanted).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error.clamp_min(1e-8))).mean())
