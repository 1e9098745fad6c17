# SPDX-License-Identifier: Apache-2.0
"""Pipelines and models of the published architectures with random weights, small enough for a CPU.

They make noise, not videos; what they show is how the real ones are used. Nothing is downloaded:
text comes as random embeddings, and where there is no VAE the result is the latent.
"""

from __future__ import annotations

from typing import Any

import torch

HEAD_DIM = 32
TEXT_DIM = 32


def wan_transformer(**changes: Any) -> Any:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    settings: dict[str, Any] = dict(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=HEAD_DIM,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=64,
        num_layers=3,
        rope_max_seq_len=64,
    )
    return WanTransformer3DModel(**{**settings, **changes}).eval()


def wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(1)
    return AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    ).eval()


def wan_pipeline(two_transformers: bool = False, vae: Any = None) -> Any:
    """Wan2.1; with two transformers Wan2.2."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    more: dict[str, Any] = {}
    if two_transformers:
        more = dict(transformer_2=wan_transformer(num_layers=2), boundary_ratio=0.7)
    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=wan_transformer(),
        **more,
    )


def wan_image_to_video_pipeline(expand: bool = False) -> Any:
    """Wan2.1 I2V, with an encoder of the image; expanded as Wan2.2 5B, whose known tokens have a
    timestep of their own."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    changes: dict[str, Any] = {}
    if not expand:  # 4 channels of a mask and 16 of the image's latent join the noise
        changes = dict(in_channels=36, image_dim=4, added_kv_proj_dim=2 * HEAD_DIM)
    torch.manual_seed(2)
    encoder = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=4,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    ).eval()
    return WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_encoder=None if expand else encoder,
        image_processor=None if expand else CLIPImageProcessor(crop_size=32, size=32),
        transformer=wan_transformer(**changes),
        **(dict(expand_timesteps=True) if expand else {}),
    )


def cogvideox_pipeline(first_version: bool = True) -> Any:
    """CogVideoX, or 1.5 with its patches of two frames."""
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=HEAD_DIM,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=TEXT_DIM,
        num_layers=3,
        sample_width=24,
        sample_height=16,
        sample_frames=13,
        patch_size=2,
        patch_size_t=None if first_version else 2,
        patch_bias=first_version,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    ).eval()
    return CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(),
    )


def hunyuan_pipeline() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )

    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=HEAD_DIM,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=8,
        rope_axes_dim=(8, 12, 12),
    ).eval()
    return HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
    )


def ltx_pipeline() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel

    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=HEAD_DIM,
        cross_attention_dim=2 * HEAD_DIM,
        num_layers=3,
        caption_channels=TEXT_DIM,
    ).eval()
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )


def text(tokens: int = 16, seed: int = 0, batch: int = 1) -> torch.Tensor:
    """[batch, tokens, TEXT_DIM]: what a text encoder would give."""
    return torch.randn(batch, tokens, TEXT_DIM, generator=torch.Generator().manual_seed(seed))


def wan_arguments(**changes: Any) -> dict[str, Any]:
    """Of a call of a Wan pipeline that takes seconds; guidance runs two branches."""
    arguments: dict[str, Any] = dict(
        prompt_embeds=text(),
        negative_prompt_embeds=text(seed=1),
        height=128,
        width=192,
        num_frames=13,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
    return {**arguments, **changes}


def cogvideox_arguments(**changes: Any) -> dict[str, Any]:
    """The same for CogVideoX, which runs both branches of guidance in one batch."""
    return wan_arguments(**changes)


def hunyuan_arguments(**changes: Any) -> dict[str, Any]:
    """The same for HunyuanVideo, whose guidance is distilled; the text ends in padding."""
    arguments = wan_arguments(
        pooled_prompt_embeds=torch.zeros(1, 8),
        prompt_attention_mask=(torch.arange(16) < 11)[None].to(torch.int64),
        **changes,
    )
    del arguments["negative_prompt_embeds"]
    return arguments


def ltx_arguments(**changes: Any) -> dict[str, Any]:
    mask = torch.ones(1, 16, dtype=torch.int64)
    return wan_arguments(
        prompt_attention_mask=mask,
        negative_prompt_attention_mask=mask,
        **{"height": 512, "width": 512, "num_frames": 25, **changes},
    )


def qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    vision = dict(
        depth=2,
        hidden_size=32,
        out_hidden_size=4 * HEAD_DIM,
        num_heads=4,
        intermediate_size=32,
        fullatt_block_indexes=[1],
    )
    config = Qwen2_5_VLConfig(text_config=_decoder(), vision_config=vision, **_VISION_TOKENS)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    torch.manual_seed(0)
    vision = dict(
        depth=2,
        hidden_size=32,
        out_hidden_size=4 * HEAD_DIM,
        num_heads=4,
        intermediate_size=32,
        patch_size=14,
        num_position_embeddings=256,
        deepstack_visual_indexes=[0],
    )
    text_config = {**_decoder(), "head_dim": HEAD_DIM}
    config = Qwen3VLConfig(text_config=text_config, vision_config=vision, **_VISION_TOKENS)
    return Qwen3VLForConditionalGeneration(config).eval()


_VISION_TOKENS = dict(
    vision_start_token_id=3, image_token_id=4, video_token_id=5, vision_end_token_id=6
)


def _decoder() -> dict[str, Any]:
    import transformers

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    is_old = transformers.__version__.startswith("4.")
    return dict(
        hidden_size=4 * HEAD_DIM,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=151,
        max_position_embeddings=65536,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        **({"rope_scaling": rope} if is_old else {"rope_parameters": rope}),
    )


def video_prompt(
    frames: int = 4, side: int = 16, words: int = 30, by_frame: bool = False
) -> dict[str, torch.Tensor]:
    """What a processor would give for a video of frames x side x side patches and some words;
    that of Qwen3-VL puts each frame between its own marks."""
    random = torch.Generator().manual_seed(0)
    begin, video, end = 3, 5, 6
    tokens = frames * side * side // 4  # four patches are merged to a token
    parts = frames if by_frame else 1
    ids = torch.cat(
        [
            torch.randint(7, 151, (words,), generator=random),
            torch.tensor([begin, *[video] * (tokens // parts), end] * parts),
            torch.randint(7, 151, (words,), generator=random),
        ]
    )[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.where(ids == video, 2, 0),
        "pixel_values_videos": torch.randn(frames * side * side, 3 * 2 * 14 * 14, generator=random),
        "video_grid_thw": torch.tensor([[frames, side, side]]),
    }
