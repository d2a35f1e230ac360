"""What `run.py --mode` can do, one file a mode."""

MODES = {
    "train": "train a network, or go on with a run that stopped",
    "sample": "draw images from a trained run",
    "edit": "change images, the user's or held-out ones, by a trained run: see --task",
    "evaluate": "say how likely a trained run finds unseen images, how good its samples are, how often a classifier is right",
    "import_weights": "make a run of a network of another system: diffusers', OpenAI's or DDIM's, see --from",
    "report": "write one page of all that a workdir holds, to be read in a browser",
    "compare": "write one page on which several runs lie side by side: see --workdirs and --out",
    "serve": "show a local page on which images are drawn by a trained run and its chain is watched: see --port",
    "demo": "train configs/digits.py, draw digits and have a classifier judge them",
    "export_weights": "keep the averaged weights of a trained run, and its settings, in a small folder of their own: see --out",
    "describe": "print the network, the schedule and the data, and train nothing",
    "plan": "say what training would take on devices that are not here, and whether it fits them: see --topology",
    "data": "show what the data holds: shapes, classes, damaged images, a contact sheet; and how fast it is read",
}

OWN_FLAGS = {
    "task": (("edit",), "inpaint, interpolate, encode, translate, sdedit or enlarge."),
    "images": (("edit",), "an image file or a folder. Left out: held-out images of the run's data."),
    "mask": (("edit",), "an image file, white where --task inpaint draws anew."),
    "samples": (("evaluate",), "an .npz file or a folder of images to be judged; no run is needed."),
    "reference": (("evaluate",), "what samples are compared with: an .npz file, a folder or a data set."),
    "out": (("export_weights", "compare"), "what is written, a folder of weights or a page."),
    "to": (("export_weights",), "safetensors (it opens as a --workdir), diffusers, stablehlo (for JAX alone)."),
    "from": (("import_weights",), "a folder, a file, or USER/NAME on the Hugging Face hub."),
    "workdirs": (("compare",), "the runs, runs/a,runs/b."),
    "host": (("serve",), "the address to listen at. Left out: 127.0.0.1, this machine alone."),
    "port": (("serve",), "the port to listen at. Left out: 7860, or the next one that is free."),
    "topology": (("plan",), "v5e:16x16 (also v4, v5p, v6e), gpu:8xH100 or cpu:8."),
}
"""Flags of some modes alone, in whose settings each is kept under its name: of which, and what is said of it."""
GROUPS = {"evaluate": "eval"}
"""Of settings, where they are not called as the mode is."""
