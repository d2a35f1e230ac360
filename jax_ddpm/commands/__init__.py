"""What `run.py --mode` can do, one file a mode."""

MODES = {
    "train": "train a network, or go on with a run that stopped",
    "sample": "draw images from a trained run",
    "edit": "change images, the user's or held-out ones, by a trained run: see --task",
    "evaluate": "say how likely a trained run finds unseen images, how good its samples are, how often a classifier is right",
    "import_weights": "make a run of a network of another system: diffusers', OpenAI's or DDIM's, see --from",
    "demo": "train configs/digits.py, draw digits and have a classifier judge them",
    "export_weights": "keep the averaged weights of a trained run, and its settings, in a small folder of their own: see --out",
    "describe": "print the network, the schedule and the data, and train nothing",
    "plan": "say what training would take on devices that are not here, and whether it fits them: see --topology",
    "data": "show what the data holds: shapes, classes, damaged images, a contact sheet; and how fast it is read",
}
