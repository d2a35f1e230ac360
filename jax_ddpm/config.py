"""The settings of a run: every key there is, with its default, and how a run's settings are kept and read again."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jax_ddpm.errors import InvalidInput, did_you_mean
from jax_ddpm.files import absolute, place, write_json
from jax_ddpm.training.checkpoint_config import newest_config

FILE_NAME = "config.json"
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# What a run that has begun cannot change,
FIXED = ("seed", "data", "diffusion", "model", "train.batch_size", "train.adam_mu_dtype")
# except for these.
FREE = ("model.remat", *(f"data.{name}" for name in ("directory", "workers", "cache_mib", "prefetch", "on_damaged", "inspect")))


def default_config() -> ConfigDict:
    """Every setting with its default: the CIFAR-10 run of Ho et al. 2020. A key that is not here cannot be set."""
    config = ConfigDict()
    config.seed = 0

    config.data = data = ConfigDict()
    data.name = "cifar10"  # digits, fashion_mnist, emoji, folder, arrays, hf:NAME, or a set of TensorFlow Datasets
    data.split = "train"
    data.directory = ""  # the folder, zip or file they are in, or where sets are kept ("": each set's own default)
    data.image_column = ""  # of hf:NAME and TensorFlow Datasets, where the images are; "": image, img or the only one of images
    data.label_column = ""  # and where their classes are; "": label or the only one of classes
    data.image_size = 32  # pixels a side
    data.channels = 3  # 1 (grey) or 3 (RGB)
    data.workers = 2  # threads that read and fit images
    data.cache_mib = 1024  # images are kept in memory once they are read and fitted, if all fit in so much; 0: never
    data.prefetch = 2  # batches put on the devices ahead
    data.on_damaged = "stop"  # of an image that cannot be read: stop, skip (the next one takes its place)
    data.flip = True  # mirror left to right in one of two draws
    data.crop = 1.0  # the least share of the side that a random square is cut out of; 1: none is cut
    data.rotate = 0.0  # degrees by which an image is turned at most, either way
    data.augment = 0.0  # probability of each move of non-leaking augmentation, which the network is told of; 0: there is none
    data.inspect = 2000  # images that --mode data reads, drawn from all over; 0: every one
    data.class_names = ()  # by label; found out and kept when training starts
    data.classes_named = True  # False of imported weights: their classes are but numbers, and fit any data of as many

    config.diffusion = diffusion = ConfigDict()
    diffusion.schedule = "linear"  # linear, cosine, quadratic, sigmoid, constant, jsd
    diffusion.steps = 1000  # T
    diffusion.beta_start = 1e-4  # for T = 1000; scaled by 1000/T
    diffusion.beta_end = 0.02
    diffusion.zero_terminal_snr = False  # nothing of x_0 is left in x_T: needs a prediction and a loss other than eps
    diffusion.prediction = "eps"  # what the network says: eps, x0, v, mean (of p(x_{t-1} | x_t)), score
    diffusion.variance = "fixed_large"  # of p(x_{t-1} | x_t): fixed_small, fixed_large, learned, learned_range
    diffusion.loss = "eps"  # eps (L_simple), x0, v, kl (a term of the bound), rescaled_kl (T times it), hybrid
    diffusion.hybrid_weight = 1e-3  # of the bound in the hybrid loss
    diffusion.weighting = "uniform"  # of eps, x0 and v: uniform (as the loss is), snr, truncated_snr, min_snr, p2, vlb
    diffusion.min_snr_gamma = 5.0
    diffusion.p2_k = 1.0
    diffusion.p2_gamma = 1.0
    diffusion.timesteps = "uniform"  # how t is drawn: uniform, stratified, antithetic, second_moment (by importance)

    config.model = model = ConfigDict()
    model.network = "unet"  # unet, noisy_classifier (it says what class a noisy image is of, and can guide a unet)
    model.channels = 128
    model.multipliers = (1, 2, 2, 2)
    model.blocks = 2
    model.attention_resolutions = (16,)
    model.heads = 1
    model.head_channels = 0  # of each head; 0: `heads` says how many there are
    model.dropout = 0.1
    model.groups = 32
    model.scale_shift = False  # the embedding scales and shifts what is normalised, instead of being added before
    model.block_resampling = False  # the image changes its size within a residual block, not by a layer of its own:
    model.downsample = "conv"  # conv, conv_centred (padded all around, as OpenAI's networks are), pool
    model.upsample = "nearest"  # nearest and bilinear, each with a convolution, transposed
    model.skip = "concatenate"  # how the way up is given what the way down has come to: concatenate, add
    model.middle_attention = True
    model.norm_eps = 1e-6  # of the normalisation; OpenAI's networks have 1e-5
    model.time_cosine_first = False  # of the embedding of t; OpenAI's networks have it so, and shift the frequencies by 0
    model.time_frequency_shift = 1
    model.time_channels = 0  # of the embedding of t; 0: as many as model.channels
    model.time_scale = 1.0  # what t is multiplied by before
    model.class_conditional = False
    model.label_dropout = 0.0  # share of labels that training replaces by "no class"; guidance without a classifier needs some
    model.low_res_size = 0  # pixels a side of the small image that the network enlarges; 0: it is given none
    model.low_res_noise = 0.0  # the largest share of the chain by which training noises the small image; 0: not at all
    model.low_res_time = True  # whether the network is told how far the small image is noised
    model.remat = "none"  # what of each block is computed again in the backward pass, to save memory: none, blocks, dots
    model.dtype = "float32"  # of the body: float32, bfloat16

    config.train = train = ConfigDict()
    train.start = ""  # a workdir whose averaged weights training begins with; "": random ones
    train.steps = 800_000
    train.batch_size = 128
    train.accumulate = 1  # parts that a batch is worked off in, to save memory
    train.parallel = "jit"  # how the step runs on several devices: jit, pmap (of one process, without mesh.fsdp)
    train.learning_rate = 2e-4
    train.warmup_steps = 5000
    train.clip_norm = 1.0  # of the gradient; 0 does not clip
    train.adam_b1 = 0.9
    train.adam_b2 = 0.999
    train.adam_eps = 1e-8
    train.adam_mu_dtype = "float32"  # of Adam's first moment: float32, bfloat16 (half its memory)
    train.weight_decay = 0.0  # of AdamW; 0 is Adam
    train.decay = "constant"  # of the learning rate after the warm-up: constant, linear (to 0 at train.steps)
    train.ema_decay = 0.9999  # 0: the average is the parameters
    train.ema_warmup = True  # decay min(ema_decay, (1 + n)/(10 + n)), so that short runs forget their start
    train.max_skipped = 10  # steps in a row whose loss or gradient is not finite, each left out, until the run stops
    train.log_every = 100
    train.checkpoint_every = 5000
    train.keep_last = 3
    train.keep_every = 100_000  # 0 keeps the last ones only
    train.sample_every = 10_000  # a grid of samples, and one at the end; 0 draws none on the way
    train.sample_count = 64  # images in it

    config.mesh = mesh = ConfigDict()
    mesh.data = 0  # devices along the axis over which only the batch is split; 0: as many as mesh.fsdp leaves
    mesh.fsdp = 1  # devices over which the train state is split as well
    mesh.rules = ()  # PATTERN=HOW for paths of the state, such as attention/.*kernel=whole: whole, largest or an axis

    config.sample = sample = ConfigDict()
    sample.count = 64  # images that --mode sample draws
    sample.batch_size = 64
    sample.seed = 0
    sample.labels = ()  # taken in turn, where the network or a classifier knows classes; () takes every class

    config.sampler = sampler = ConfigDict()
    sampler.name = "ancestral"  # ancestral, ddim, euler, heun, dpm_solver_pp, unipc
    sampler.steps = 0  # 0: as many as the chain has
    sampler.spacing = ""  # linspace, leading, trailing, quad, ddim, karras, log_snr; 10,15,20 of as many parts; "": its own
    sampler.clip = "static"  # what is done to each estimate of x_0: static (held within [-1, 1]), dynamic, none
    sampler.dynamic_quantile = 0.995  # of |x_0|, at which dynamic clipping begins
    sampler.eta = 0.0  # of ddim: from 0, no noise, to 1, as much as the posterior has
    sampler.rederive_eps = True  # of ddim: whether the noise is derived anew from the clipped x_0
    sampler.order = 2  # of dpm_solver_pp and unipc: 1, 2, 3
    sampler.stochastic = False  # of dpm_solver_pp: solve the SDE
    sampler.churn = 0.0  # of euler and heun, where noise is added before each step: S_churn
    sampler.churn_range = ()  # the two noise levels, √((1-ᾱ)/ᾱ), between which it is: S_tmin, S_tmax; (): everywhere
    sampler.churn_noise = 1.0  # S_noise

    config.guidance = guidance = ConfigDict()
    guidance.scale = 1.0  # 1: as the class is in the data; more draws closer to what is typical of it
    guidance.classifier = ""  # the workdir of a noisy classifier; "": classifier-free, which needs model.label_dropout
    guidance.interval = (0.0, 1.0)  # the part of the chain in which it acts, from clean (0) to noise (1)
    guidance.form = ""  # what a classifier moves: mean, score; "": mean of ancestral and stochastic ones, else score

    config.edit = edit = ConfigDict()
    edit.task = ""  # what --mode edit does: inpaint, interpolate, encode, translate, sdedit, enlarge
    edit.images = ""  # an image file, or a folder of them; "": the first ones of eval.split of the run's own data
    edit.count = 8  # how many of them, at the most
    edit.labels = ()  # their classes, taken in turn; (): those of the data, or no class where the network knows that
    edit.targets = ()  # of translate: the classes that each image is translated to; (): every class
    edit.mask = ""  # of inpaint: an image file, white where it is to be drawn anew
    edit.region = "right"  # of inpaint without a mask, what is drawn anew: left, right, top, bottom, centre
    edit.resamples = 5  # of inpaint: how often each stretch of the chain is gone through; 1 goes through it once
    edit.jump = 10  # of inpaint: steps in a stretch; a chain of no more is gone through once
    edit.strength = 0.5  # of sdedit: the part of the chain that is run, from nothing (0) to all of it (1)
    edit.spherical = True  # of interpolate: on the arc between two latents; else on the line
    edit.low_res_noise = 0.0  # of enlarge: the share of the chain by which the small image is noised, up to model.low_res_noise
    edit.frames = 11  # states of the chain that are shown; of interpolate, the images from the first to the second
    edit.seed = 0

    config.eval = evaluation = ConfigDict()
    evaluation.metrics = ("bits_per_dim",)  # of held-out images or samples: see METRICS and the like in metrics.py
    evaluation.split = "test"  # of the data
    evaluation.count = 0  # how many of its images, from the first on; 0 takes all
    evaluation.batch_size = 64
    evaluation.seed = 0
    evaluation.clip = True  # hold x_0 within [-1, 1] at every step of the bound
    evaluation.respacing = ""  # steps of the bound: uniform50, quad50, ddim50, 10,15,20 of as many parts; "": every one
    evaluation.draws = 0  # terms of the bound worked out for each image, at times drawn all along the chain; 0: every one
    evaluation.classifier = ""  # of agreement, and of features=classifier: the workdir of the one that says what samples are of
    evaluation.features = "inception"  # what fid and the like compare: inception, classifier (what it makes of an image)
    evaluation.inception = ""  # the weights of that network: the path or the address of pytorch-fid's file, see INCEPTION_URL
    evaluation.inception_sha256 = INCEPTION_SHA256  # "": whatever lies at the path
    evaluation.resize = "tensorflow"  # of images to 299×299: tensorflow (also guided-diffusion, torch-fidelity), pytorch
    evaluation.samples = ""  # an .npz file or a folder to judge instead of drawing any
    evaluation.reference = ""  # an .npz file (of images or statistics), a folder or a data set; "": what was trained on
    evaluation.reference_count = 0  # how many of its images, drawn from all over; 0 takes all
    evaluation.save_reference = ""  # an .npz file to keep its statistics in
    evaluation.ode_tolerance = 1e-4  # relative and absolute error of a step of the ODE's solver

    config.export_weights = export = ConfigDict()
    export.to = "safetensors"  # safetensors (it opens like a run), diffusers, stablehlo (the whole sampler, for JAX alone)
    export.average = True  # the averaged weights; else those that the last step left
    export.out = ""  # the folder that --mode export_weights writes
    export.dtype = "float32"  # what the weights are stored in: float32; in half the room float16 (11 bits), bfloat16 (8)

    config.plan = plan = ConfigDict()
    plan.topology = ""  # the devices that --mode plan plans for: v5e:16x16, v5p:2x2x4, gpu:8xH100, cpu:8

    config.import_weights = importing = ConfigDict()
    importing["from"] = ""  # what --mode import_weights reads: a folder, a file, or a name on the Hugging Face hub, USER/NAME
    importing.qkv = ""  # of OpenAI's networks: by_head, whole (use_new_attention_order); "": as the published ones have it
    importing.given = ()  # the settings that flags gave, which go before what the source says; found out by run.py

    config.compare = compare = ConfigDict()
    compare.workdirs = ()  # the runs that --mode compare lays side by side
    compare.out = "compare.html"  # the page that it writes

    config.serve = serve = ConfigDict()
    serve.host = "127.0.0.1"  # where --mode serve listens; whoever reaches another address than that can use the page
    serve.port = 0  # 0: 7860, or the next one that is free
    serve.images = 16  # the most that are drawn at a time
    serve.upload_mib = 8  # the largest picture that it takes

    config.profile = profile = ConfigDict()
    profile.start = 10  # the first step after the start of the command that is traced; the first ones wait for the compiler
    profile.steps = 0  # how many are, into WORKDIR/profile/; 0: none

    config.runtime = runtime = ConfigDict()
    runtime.cpu_devices = 0  # XLA devices to make of a CPU; 0: data × fsdp of the mesh, or one a core, if they divide the batch
    runtime.heartbeat = 100  # seconds after which one of several processes that has fallen silent is taken for dead
    runtime.compilation_cache = ""  # a folder; "": JAX_COMPILATION_CACHE_DIR or ~/.cache/jax_ddpm
    return config.lock()


def get_config(workdir: str = "") -> ConfigDict:
    """The settings kept in a workdir, or the defaults, in the form that the flag `--config FILE:ARGUMENT` calls."""
    return read_config(place(workdir)) if workdir else default_config()


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """The settings as nested plain dicts, their tuples as lists: what JSON gives back."""
    return json.loads(config.to_json())


def write_config(config: ConfigDict, workdir: Path) -> None:
    """Keeps the settings in `workdir`, so that nothing has to be remembered to reopen the run."""
    write_json(workdir / FILE_NAME, to_dict(config))


def kept_at(workdir: Path) -> Path | None:
    """The file with the settings of the run in `workdir`; that of its newest checkpoint where there is no other; or None."""
    path = workdir / FILE_NAME
    return path if path.is_file() else newest_config(workdir / "checkpoints")


def read_config(workdir: Path) -> ConfigDict:
    """The settings kept in `workdir`, beside its checkpoints or in them.

    Raises:
      InvalidInput: none are kept there, or they hold a key or a type that this version does not know.
    """
    path = kept_at(workdir)
    if path is None:
        raise InvalidInput(
            f"no run at {absolute(workdir)}: expected a {FILE_NAME} there, or checkpoints. Train one with --config FILE"
        )
    try:
        return merge(default_config(), json.loads(path.read_text()))
    except (json.JSONDecodeError, InvalidInput) as error:
        raise InvalidInput(f"{path}: {error}") from error


def merge(config: ConfigDict, values: dict[str, Any], prefix: str = "") -> ConfigDict:
    """`config` with `values` laid over it, key by key.

    Raises:
      InvalidInput: a key that config does not have, or a value of another type.
    """
    for key, value in values.items():
        name = prefix + key
        if key not in config:
            raise InvalidInput(f"unknown setting {name!r}.{did_you_mean(key, config.keys())}")
        if isinstance(config[key], ConfigDict):
            if not isinstance(value, dict):
                raise InvalidInput(f"setting {name!r} is {value!r}: expected a group of settings")
            merge(config[key], value, f"{name}.")
            continue
        try:
            config[key] = tuple(value) if isinstance(config[key], tuple) else value
        except TypeError as error:
            expected = type(config[key]).__name__
            raise InvalidInput(f"setting {name!r} is {value!r}: expected {expected}, such as {config[key]!r}") from error
    return config


def check_unchanged(config: ConfigDict, workdir: Path) -> None:
    """Raises InvalidInput where `config` is of other data, another network or another process than the run in `workdir`."""
    different = [
        f"  {name}: the run has {old!r}, now given {new!r}"
        for name, (old, new) in changes(read_config(workdir), config).items()
        if name.startswith(FIXED) and name not in FREE
    ]
    if different:
        raise InvalidInput(
            f"{workdir} holds a run with other settings:\n" + "\n".join(different) + "\n"
            "Give another --workdir to start anew, or leave --config out to go on as it was"
        )


def changes(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configs differ: dotted name -> (old value, new value)."""

    def flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for key, value in config.items():
            rows |= flat(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {prefix + key: value}
        return rows

    before, after = flat(old), flat(new)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}
