"""The networks that OpenAI published: the flags that the two READMEs give for each, by the name of its file.

One that has the network and the noise of another is left out: those of L_vlb, the second of improved-diffusion's LSUN, and of
guided-diffusion's LSUN all but the bedroom.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """Whose it is, which of their functions makes it, and by which flags; usual ones may be left out."""

    family: str
    maker: str
    flags: str


_UNET, _ENLARGING = "create_model_and_diffusion", "sr_create_model_and_diffusion"
_CLASSIFIER = "create_classifier_and_diffusion"
_IMPROVED, _GUIDED = "improved-diffusion", "guided-diffusion"
_COSINE = "--diffusion_steps 4000 --noise_schedule cosine"
_NOT_RESCALED = "--rescale_learned_sigmas False --rescale_timesteps False"
_ADM = "--attention_resolutions 32,16,8 --learn_sigma True --resblock_updown True --use_scale_shift_norm True"
_ADM_256 = f"{_ADM} --image_size 256 --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2"

PUBLISHED = {
    "imagenet64_uncond_100M_1500K": Published(
        _IMPROVED, _UNET, f"--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True {_COSINE}"
    ),
    "cifar10_uncond_50M_500K": Published(
        _IMPROVED, _UNET, f"--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 {_COSINE}"
    ),
    "imagenet64_cond_270M_250K": Published(
        *(_IMPROVED, _UNET),
        f"--image_size 64 --num_channels 192 --num_res_blocks 3 --learn_sigma True --class_cond True {_COSINE} {_NOT_RESCALED}",
    ),
    "upsample_cond_500K": Published(
        *(_IMPROVED, _ENLARGING),
        "--num_channels 192 --num_res_blocks 2 --learn_sigma True --class_cond True "
        f"--diffusion_steps 4000 --noise_schedule linear {_NOT_RESCALED}",
    ),
    "lsun_uncond_100M_1200K_bs128": Published(
        *(_IMPROVED, _UNET),
        "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True --use_scale_shift_norm False "
        f"--attention_resolutions 16 --diffusion_steps 1000 --noise_schedule linear {_NOT_RESCALED}",
    ),
    "64x64_diffusion": Published(
        *(_GUIDED, _UNET),
        f"{_ADM} --class_cond True --dropout 0.1 --image_size 64 --noise_schedule cosine --num_channels 192 "
        "--num_head_channels 64 --num_res_blocks 3 --use_new_attention_order True",
    ),
    "128x128_diffusion": Published(
        *(_GUIDED, _UNET),
        f"{_ADM} --class_cond True --image_size 128 --noise_schedule linear --num_channels 256 --num_heads 4 "
        "--num_res_blocks 2",
    ),
    "256x256_diffusion": Published(_GUIDED, _UNET, f"{_ADM_256} --class_cond True"),
    "256x256_diffusion_uncond": Published(_GUIDED, _UNET, f"{_ADM_256} --class_cond False"),
    "512x512_diffusion": Published(
        _GUIDED, _UNET, f"{_ADM_256.replace('--image_size 256', '--image_size 512')} --class_cond True"
    ),
    "lsun_bedroom": Published(_GUIDED, _UNET, f"{_ADM_256} --class_cond False --dropout 0.1"),
    "64_256_upsampler": Published(
        *(_GUIDED, _ENLARGING),
        f"{_ADM} --class_cond True --large_size 256 --small_size 64 --noise_schedule linear --num_channels 192 --num_heads 4 "
        "--num_res_blocks 2",
    ),
    "128_512_upsampler": Published(
        *(_GUIDED, _ENLARGING),
        f"{_ADM.replace('32,16,8', '32,16')} --class_cond True --large_size 512 --small_size 128 --noise_schedule linear "
        "--num_channels 192 --num_head_channels 64 --num_res_blocks 2",
    ),
    "64x64_classifier": Published(_GUIDED, _CLASSIFIER, "--image_size 64 --classifier_depth 4 --noise_schedule cosine"),
    "128x128_classifier": Published(_GUIDED, _CLASSIFIER, "--image_size 128 --noise_schedule linear"),
    "256x256_classifier": Published(_GUIDED, _CLASSIFIER, "--image_size 256 --noise_schedule linear"),
    "512x512_classifier": Published(_GUIDED, _CLASSIFIER, "--image_size 512 --noise_schedule linear"),
}


def parsed(flags: str) -> dict[str, str]:
    """The flags by name, each as it is written."""
    words = flags.split()
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
