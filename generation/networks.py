"""The tiny generator's networks, built from nothing: Stable Diffusion's parts at toy-town scale."""

from typing import Any

from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from generation.weights.words import learn_vocabulary
from pipeline.config.weights import PriorTraining, VaeTraining
from pipeline.data.labels import NUM_CLASSES

MAX_TOKENS = 77
GROUPS = 8
HEADS = 4


def build_vae(config: VaeTraining) -> AutoencoderKL:
    """Autoencoder without attention; it shrinks each side by 2 per resolution after the first."""
    levels = len(config.channels)
    return AutoencoderKL(
        block_out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=GROUPS,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def build_unet(config: PriorTraining, latent_channels: int, sample_size: tuple[int, int]) -> UNet2DConditionModel:
    """U-Net over latents of `sample_size` cells with cross-attention at its lowest resolution.

    The text is also pooled and added to the time embedding, which scales and shifts every block: in short trainings
    cross-attention alone does not make the prompt steer the style.
    """
    plain = len(config.channels) - 1
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.channels,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        attention_head_dim=HEADS,
        cross_attention_dim=config.text_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=HEADS,
        resnet_time_scale_shift="scale_shift",
    )


def build_controlnet(unet: UNet2DConditionModel, image_levels: int) -> ControlNetModel:
    """ControlNet that starts as a copy of `unet`'s encoder; condition = one-hot label, ignore as the last channel.

    `image_levels` is the number of the VAE's resolutions, so that the condition shrinks as the image does; Stable
    Diffusion's four get the widths of the published ControlNets.
    """
    widths = (16, 32, 96, 256) if image_levels == 4 else tuple(16 * 2**level for level in range(image_levels))
    copy = ControlNetModel.from_unet(
        unet, conditioning_channels=NUM_CLASSES + 1, conditioning_embedding_out_channels=widths
    )
    config = {key: value for key, value in copy.config.items() if not key.startswith("_")}
    config["addition_embed_type_num_heads"] = unet.config.addition_embed_type_num_heads  # from_unet forgets it
    controlnet = ControlNetModel(**config)
    controlnet.load_state_dict(copy.state_dict())
    return controlnet


def build_scheduler() -> DDIMScheduler:
    """v-prediction down to zero signal: otherwise the last step leaks the mean brightness and night comes out as day.

    Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (WACV 2024).
    """
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def build_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of `texts` is one token, the same for the same texts."""
    vocabulary = learn_vocabulary(texts)
    merges: Any = vocabulary.merges
    return CLIPTokenizer(vocab=vocabulary.numbers, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(config: PriorTraining, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP text encoder for `tokenizer`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            projection_dim=config.text_width,
            intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=HEADS,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
