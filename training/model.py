# SPDX-License-Identifier: Apache-2.0
"""The video transformer: parameters and arithmetic of diffusers' WanTransformer3DModel.

Letters: B clips, F frames, R = B·F rows, T tokens of one frame, D channels, H heads, E channels of
a head, L text positions. Everything but self-attention treats the frames of all clips as
independent rows, so that any number of clips of any length with the same R has the same shapes: the
two compiled parts of a block serve every phase of the curriculum, and the cost of compiling is paid
once.
"""
import math

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from grammar import TEXT_LENGTH

TEXT_CHANNELS = 64
# cuDNN's attention is 1.6 times as fast as FlashAttention 2 on an H100: 16 against 26 ms, forward
# and backward, 8 clips of 16,384 tokens, 4 heads of 64.
ATTENTION_PRIORITY = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
CONFIG = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": "0.36.0",
    "patch_size": [1, 2, 2],
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": TEXT_CHANNELS,
    "freq_dim": 256,
    "ffn_dim": 704,
    "num_layers": 8,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "rope_max_seq_len": 1024,
    "pos_embed_seq_len": None,
}


def layer_norm(x, eps):
    """Over channels, in f32, without weights."""
    return functional.layer_norm(x.float(), x.shape[-1:], eps=eps)


def rotate(x, rope):
    """Turns neighbouring pairs of channels; x f32 [R, T, H, E], rope = cos, sin [R, T, 1, E/2]."""
    cos, sin = rope
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


ROPE_THETA = 10000.0  # of diffusers' Wan


def rope_angles(positions, channels, theta):
    """Angles f64 [N, channels/2] of positions [N] on one axis of the rotary embedding."""
    even = torch.arange(0, channels, 2, device=positions.device, dtype=torch.float64)
    return torch.outer(positions.double(), theta ** -(even / channels))


def rope_channels(head_dim):
    """How many channels of a head stand for time, height and width."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rope_tables(frames, height, width, head_dim, theta=ROPE_THETA):
    """cos, sin [F, height·width, 1, head_dim/2] at the frame numbers `frames` [F], in tokens."""
    device = frames.device
    in_time, in_height, in_width = rope_channels(head_dim)
    shape = (len(frames), height, width, -1)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    parts = (
        rope_angles(frames, in_time, theta)[:, None, None].expand(shape),
        rope_angles(rows, in_height, theta)[None, :, None].expand(shape),
        rope_angles(columns, in_width, theta)[None, None].expand(shape),
    )
    whole = torch.cat(parts, -1).reshape(len(frames), height * width, 1, -1)
    return whole.cos().float(), whole.sin().float()


def usable_attention(device, lengths, heads, head_dim, is_causal=False):
    """ATTENTION_PRIORITY from the first backend on that runs, both ways, for all these tokens.

    PyTorch itself falls back only from what it knows to be unsupported, not from an error of cuDNN.
    """
    if device.type != "cuda":
        return ATTENTION_PRIORITY
    for first, backend in enumerate(ATTENTION_PRIORITY):
        try:
            for tokens in lengths:
                shape = (1, tokens, heads, head_dim)
                x = torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
                y = x.transpose(1, 2)
                with sdpa_kernel(backend):
                    y = functional.scaled_dot_product_attention(y, y, y, is_causal=is_causal)
                y.float().square().mean().backward()
            torch.cuda.synchronize()
            print(f"attention: {backend}", flush=True)
            return ATTENTION_PRIORITY[first:]
        except RuntimeError as error:
            print(f"{backend} cannot do {shape}: {error}", flush=True)
    raise RuntimeError(f"no attention backend takes {heads} heads of {head_dim}")


def joint_attention(q, k, v, clips, backends):
    """Attention over all tokens of each clip; q, k, v and the result [R, T, H, E]."""
    by_clip = [x.reshape(clips, -1, *x.shape[2:]).transpose(1, 2) for x in (q, k, v)]
    with sdpa_kernel(backends, set_priority=True):
        attended = functional.scaled_dot_product_attention(*by_clip).transpose(1, 2)
    # Other strides than before would compile what follows once more.
    return attended.contiguous().reshape(q.shape)


class RmsNorm(nn.Module):
    """Over the channels of all heads, in f32; the result stays f32."""

    def __init__(self, channels, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight.float()


class Attention(nn.Module):
    """The projections of one attention."""

    def __init__(self, channels, heads, eps):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.norm_q = RmsNorm(channels, eps)
        self.norm_k = RmsNorm(channels, eps)

    def project(self, x, source, rope=None):
        """q of x [R, T, D], k and v of source [R, S, D], each [R, T or S, H, E]."""
        v = self.to_v(source)
        q, k = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(source))
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (q, k, v))
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return q.to(v.dtype), k.to(v.dtype), v


class Projection(nn.Module):
    """First half of the feed-forward network; its own module for the parameter's name."""

    def __init__(self, channels, inner):
        super().__init__()
        self.proj = nn.Linear(channels, inner)

    def forward(self, x):
        return functional.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        # Identity stands where diffusers has its dropout: the parameters are net.0 and net.2.
        layers = [Projection(channels, inner), nn.Identity(), nn.Linear(inner, channels)]
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        heads, eps = config["num_attention_heads"], config["eps"]
        channels = heads * config["attention_head_dim"]
        self.eps = eps
        self.attn1 = Attention(channels, heads, eps)
        self.attn2 = Attention(channels, heads, eps)
        self.norm2 = nn.LayerNorm(channels, eps)
        self.ffn = FeedForward(channels, config["ffn_dim"])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, channels) / channels**0.5)

    def project(self, x, modulation, rope):
        """q, k, v [R, T, H, E] of self-attention; x [R, T, D], modulation f32 [R, 6, D]."""
        shift, scale = (self.scale_shift_table + modulation)[:, :2].chunk(2, 1)
        normed = (layer_norm(x, self.eps) * (1 + scale) + shift).to(x.dtype)
        return self.attn1.project(normed, normed, rope)

    def mix(self, x, attended, text, modulation):
        """The block's output [R, T, D] from self-attention's [R, T, H, E]; text [R, L, D]."""
        _, _, gate, ffn_shift, ffn_scale, ffn_gate = (
            self.scale_shift_table + modulation
        ).chunk(6, 1)
        update = self.attn1.to_out[0](attended.flatten(2))
        x = (x.float() + update.float() * gate).to(x.dtype)

        normed = functional.layer_norm(
            x.float(), x.shape[-1:], self.norm2.weight.float(), self.norm2.bias.float(), self.eps
        ).to(x.dtype)
        q, k, v = (y.transpose(1, 2) for y in self.attn2.project(normed, text))
        read = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attn2.to_out[0](read)

        normed = (layer_norm(x, self.eps) * (1 + ffn_scale) + ffn_shift).to(x.dtype)
        return (x.float() + self.ffn(normed).float() * ffn_gate).to(x.dtype)


class TwoLayers(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, inputs, channels, activation):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, channels)
        self.linear_2 = nn.Linear(channels, channels)
        self._activation = activation

    def forward(self, x):
        return self.linear_2(self._activation(self.linear_1(x)))


def gelu_tanh(x):
    return functional.gelu(x, approximate="tanh")


class Conditions(nn.Module):
    """Embeds timestep and text."""

    def __init__(self, config, channels):
        super().__init__()
        self.frequencies = config["freq_dim"] // 2
        self.time_embedder = TwoLayers(config["freq_dim"], channels, functional.silu)
        self.time_proj = nn.Linear(channels, 6 * channels)
        self.text_embedder = TwoLayers(config["text_dim"], channels, gelu_tanh)

    def embed_time(self, timestep):
        """Embedding [B, D] and block modulation [B, 6, D], both f32, of timestep [B] in 0..1000.

        Always f32: it is a few rows, and bf16 would round 1000 and 997 to neighbours.
        """
        with torch.autocast(timestep.device.type, enabled=False):
            steps = torch.arange(self.frequencies, device=timestep.device) / self.frequencies
            angles = timestep.float()[:, None] * torch.exp(-math.log(10000) * steps)
            embedding = self.time_embedder(torch.cat([angles.cos(), angles.sin()], -1))
            return embedding, self.time_proj(functional.silu(embedding)).unflatten(1, (6, -1))


class VideoTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        channels = config["num_attention_heads"] * config["attention_head_dim"]
        patch = config["patch_size"]
        if patch[0] != 1 or patch[1] != patch[2]:
            raise ValueError(f"patch_size is {patch}; this program trains 1 x p x p")
        self.patch = patch[1]
        self.patch_embedding = nn.Conv3d(config["in_channels"], channels, patch, patch)
        self.condition_embedder = Conditions(config, channels)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["num_layers"]))
        self.proj_out = nn.Linear(channels, config["out_channels"] * self.patch**2)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, channels) / channels**0.5)
        self.attention_backends = ATTENTION_PRIORITY
        self._project, self._mix = Block.project, Block.mix

    def compile_blocks(self):
        """From now on blocks run compiled, once per new number of rows."""
        self._project = torch.compile(Block.project, dynamic=False)
        self._mix = torch.compile(Block.mix, dynamic=False)

    def forward(self, video, timestep, text, frames=None, observe=None):
        """Velocity noise - clip [B, C, F, height, width] of a noisy video of the same shape.

        timestep [B] = 1000 · noise level; text [B, L, text_dim]; frames [F]: frame numbers, all
        from 0 on if None; observe(layer, q, k, v) sees the inputs of self-attention.
        """
        clips, _, count, height, width = video.shape
        if frames is None:
            frames = torch.arange(count, device=video.device)
        head_dim = self.config["attention_head_dim"]
        rope = rope_tables(frames, height // self.patch, width // self.patch, head_dim)
        rope = tuple(table.repeat(clips, 1, 1, 1) for table in rope)
        embedding, modulation = self.condition_embedder.embed_time(timestep)
        text = self.condition_embedder.text_embedder(text)
        embedding, modulation, text = (  # one per row, where all frames of a clip have the same
            y.repeat_interleave(count, 0) for y in (embedding, modulation, text)
        )

        x = self._embed_patches(video)
        for layer, block in enumerate(self.blocks):
            q, k, v = self._project(block, x, modulation, rope)
            if observe is not None:
                observe(layer, q, k, v)
            attended = joint_attention(q, k, v, clips, self.attention_backends)
            x = self._mix(block, x, attended, text, modulation)

        shift, scale = (self.scale_shift_table + embedding[:, None]).chunk(2, 1)
        normed = layer_norm(x, self.config["eps"]) * (1 + scale) + shift
        return self._join_patches(self.proj_out(normed.to(x.dtype)), video.shape)

    def _embed_patches(self, video):
        """[R, T, D] of [B, C, F, height, width]; a matrix product, as the convolution is."""
        clips, channels, count, height, width = video.shape
        p = self.patch
        cells = video.reshape(clips, channels, count, height // p, p, width // p, p)
        cells = cells.permute(0, 2, 3, 5, 1, 4, 6)
        cells = cells.reshape(clips * count, -1, channels * p * p)
        return functional.linear(
            cells, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias
        )

    def _join_patches(self, x, shape):
        """[B, C, F, height, width] of [R, T, p·p·C]."""
        clips, channels, count, height, width = shape
        p = self.patch
        cells = x.reshape(clips, count, height // p, width // p, p, p, channels)
        return cells.permute(0, 6, 1, 2, 4, 3, 5).reshape(shape)


class TextTable(nn.Module):
    """Text path of the bundled model: token embedding + position embedding, no mask."""

    def __init__(self, words):
        super().__init__()
        self.token_embedding = nn.Embedding(words, TEXT_CHANNELS)
        self.position_embedding = nn.Embedding(TEXT_LENGTH, TEXT_CHANNELS)

    def forward(self, ids):
        """[B, L, TEXT_CHANNELS] of ids [B, L].

        A product with one-hot rows, because the gradient of a lookup sorts the ids and waits for
        the device, which a CUDA graph forbids.
        """
        table = self.token_embedding.weight
        one_hot = ids[..., None] == torch.arange(len(table), device=ids.device)
        return one_hot.to(table.dtype) @ table + self.position_embedding.weight


@torch.no_grad()
def initialise(model):
    """Starting weights: outputs and time modulation at zero, blocks nearly the identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.patch_embedding.weight.flatten(1))
    nn.init.zeros_(model.patch_embedding.bias)
    conditions = model.condition_embedder
    for embedder in (conditions.time_embedder, conditions.text_embedder):
        nn.init.normal_(embedder.linear_1.weight, std=0.05)
        nn.init.normal_(embedder.linear_2.weight, std=0.05)
    nn.init.zeros_(conditions.time_proj.weight)
    nn.init.zeros_(model.proj_out.weight)
    for block in model.blocks:
        block.scale_shift_table.mul_(0.3)
        # The gates: a little of each branch from the first step on.
        block.scale_shift_table[:, 2].add_(0.1)
        block.scale_shift_table[:, 5].add_(0.1)
