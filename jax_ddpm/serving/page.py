"""The page itself, by Gradio: which controls there are, what each does, and the server. No other file knows Gradio.

It is imported within `kept_to_itself`, for Gradio reads its settings when it is imported.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, NoReturn

import gradio as gr
import numpy as np
import safehttpx
from jax.errors import JaxRuntimeError
from starlette.middleware import Middleware

from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import SAMPLERS
from jax_ddpm.reporting.embedded import data_uri
from jax_ddpm.serving.asked import (
    HIGHEST_SCALE,
    HIGHEST_SEED,
    IN_TURN,
    MOST_RESAMPLES,
    NO_CLASS,
    Asked,
    first_asked,
)
from jax_ddpm.serving.inputs import mask_of, picture_of
from jax_ddpm.serving.painter import Filling, Painter
from jax_ddpm.serving.policy import Guard, own_hosts
from jax_ddpm.serving.shown import heading, message, result
from jax_ddpm.serving.telling import told

WAITING = 8  # of those who have asked; one is drawn for at a time
SESSIONS = 64  # browser windows of which something is remembered
CLEARED_EVERY, LIES = 10, 30  # seconds: how often uploads are looked through, and how old one gets, which is read at once
HEADS = 2**20  # bytes beside an upload, at most: the head of the form, or what is asked for, a mask within it
FONTS = ("Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")  # of the system: none is fetched
FONTS_OF_CODE = ("Consolas", "Menlo", "DejaVu Sans Mono", "monospace")

SAY_STOPPED = """() => document.querySelectorAll('#result [role=status]').forEach(said => {
  if (!said.textContent.startsWith('Done')) said.textContent = 'Stopped: ' + said.textContent
})"""

Step = tuple[Any, ...]
"""What the outputs of an event become."""


class Page:
    """What the controls do; what each session has drawn and uploaded is kept by Gradio."""

    def __init__(self, painter: Painter) -> None:
        """Of a run."""
        self._painter = painter

    def draw(self, *values: Any) -> Iterator[Step]:
        """The chain as it runs, and the first image at its end."""
        yield from self._run(self._asked(values), None)

    def fill_in(self, picture: np.ndarray | None, mask: str | None, resamples: Any, *values: Any) -> Iterator[Step]:
        """The same of what is masked of the picture."""
        try:
            if picture is None:
                raise InvalidInput("there is no picture yet: expected one uploaded, or an image drawn before")
            filling = Filling(picture, mask_of(self._painter.config, mask))
        except InvalidInput as error:
            yield message(str(error)), gr.skip()
            return
        yield from self._run(self._asked(values, resamples), filling)

    def upload(self, file: bytes) -> Step:
        """The picture, the canvas that shows it, and what is wrong with it."""
        try:
            return self._taken(picture_of(self._painter.config, file))
        except InvalidInput as error:
            return gr.skip(), gr.skip(), message(str(error))

    def take(self, last: np.ndarray | None) -> Step:
        """The same of the image drawn last."""
        if last is None:
            return gr.skip(), gr.skip(), message("nothing has been drawn yet: expected an image drawn before")
        return self._taken(last)

    def _taken(self, picture: np.ndarray) -> Step:
        return picture, gr.update(picture=data_uri([picture], smallest=False)), message("The picture is there.", wrong=False)

    def _asked(self, values: tuple[Any, ...], resamples: Any = 1) -> Asked:
        """From the values of the controls that there are, see `controls`."""
        limits, (sampler, steps, images, seed, *more) = self._painter.limits, values
        label = more.pop(0) if limits.classes else IN_TURN
        return Asked(sampler, steps, images, seed, label, more.pop(0) if limits.guided else 1.0, resamples)

    def _run(self, asked: Asked, filling: Filling | None) -> Iterator[Step]:
        painter, way, facts = self._painter, [], None
        try:
            order = painter.order(asked, filling)
            yield message("Getting ready; a sampler that is new here is compiled first ...", wrong=False), gr.skip()
            for seen in painter.paint(order):
                way.append(seen.xt)
                facts = facts or told(order, painter.workdir, painter.weights, painter.step, seen.total)
                ended = seen.done == seen.total
                yield result(seen, facts, way if ended else ()), seen.xt[0] if ended else gr.skip()
        except InvalidInput as error:
            yield message(str(error)), gr.skip()
        except JaxRuntimeError as error:  # of memory, most likely
            first, *_ = str(error).splitlines() or [type(error).__name__]
            yield message(f"the device could not do it: {first} Fewer images need less memory"), gr.skip()


def controls(painter: Painter) -> list[gr.components.Component]:
    """What images are asked for by; none for what cannot be asked of this run."""
    limits, first = painter.limits, first_asked(painter.config)
    made: list[gr.components.Component] = [
        gr.Dropdown(list(SAMPLERS), value=first.sampler, label="Sampler", filterable=False, elem_id="sampler"),
        gr.Slider(1, limits.steps, value=first.steps, step=1, label="Steps", buttons=[], elem_id="steps"),
        gr.Slider(1, limits.images, value=first.images, step=1, label="Images", buttons=[], elem_id="images"),
        gr.Number(first.seed, label="Seed", precision=0, elem_id="seed"),
    ]
    if limits.classes:
        choices = [
            ("every class in turn; of inpainting none" if limits.forgets else "every class in turn", IN_TURN),
            *((name, label) for label, name in enumerate(limits.classes)),
        ]
        choices += [("no class (inpainting alone)", NO_CLASS)] if limits.forgets else []
        made.append(gr.Dropdown(choices, value=first.label, label="Class", filterable=len(choices) > 20, elem_id="class"))
    if limits.guided:
        made.append(
            gr.Slider(0, HIGHEST_SCALE, value=first.scale, step=0.1, label="Guidance scale", buttons=[], elem_id="scale")
        )
    return made


def make_page(painter: Painter) -> gr.Blocks:
    """The page of a run."""
    page, size = Page(painter), painter.config.data.image_size
    shape = f"{size}×{size}×{painter.config.data.channels}"
    title = f"Images drawn by {painter.workdir.name}"
    quiet: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "device", "concurrency_limit": 1}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(CLEARED_EVERY, LIES)) as blocks:
        gr.HTML(
            heading(title, f"The weights of step {painter.step:,}, {painter.weights}, of {painter.workdir}, {shape} pixels.")
        )
        last, picture = gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                asked = controls(painter)
                another = gr.Button("Another seed", size="sm", elem_id="another")
                with gr.Tab("Draw"):
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                with gr.Tab("Inpaint"):
                    file = gr.UploadButton("Upload a picture", type="binary", file_types=["image"], size="sm", elem_id="upload")
                    take = gr.Button("Take the first image drawn", size="sm", elem_id="take")
                    said = gr.HTML(elem_id="said")
                    mask = gr.HTML("", html_template=_asset("mask.html"), js_on_load=_asset("mask.js"), size=size, picture="")
                    resamples = gr.Slider(
                        1, MOST_RESAMPLES, value=first_asked(painter.config).resamples, step=1, label="Resamples", buttons=[]
                    )
                    fill = gr.Button("Draw what is painted over", variant="primary", elem_id="fill")
                stop = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=3, min_width=280):
                shown = gr.HTML(message("Nothing has been drawn yet.", wrong=False), elem_id="result")
        another.click(lambda: random.randint(0, HIGHEST_SEED), None, asked[3], queue=False, api_visibility="private")
        runs = [
            draw.click(page.draw, asked, [shown, last], show_progress="hidden", **quiet),
            fill.click(page.fill_in, [picture, mask, resamples, *asked], [shown, last], show_progress="hidden", **quiet),
        ]
        file.upload(page.upload, file, [picture, mask, said], api_visibility="private")
        take.click(page.take, last, [picture, mask, said], api_visibility="private")
        stop.click(None, None, None, js=SAY_STOPPED, cancels=runs, api_visibility="private")
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)


@contextmanager
def served(blocks: gr.Blocks, host: str, port: int, *, upload_mib: int) -> Iterator[None]:
    """Within it, the page is to be had. Nothing is asked of any other machine, by the server or by the browser."""
    safehttpx.get = safehttpx.async_validate_url = _not_got  # by which Gradio gets whatever a request has an address of
    font, font_of_code = ([gr.themes.Font(name) for name in names] for names in (FONTS, FONTS_OF_CODE))
    blocks.launch(
        server_name=host,
        server_port=port,
        theme=gr.themes.Default(primary_hue="indigo", font=font, font_mono=font_of_code),
        css=_asset("page.css"),
        max_file_size=upload_mib * 2**20,
        state_session_capacity=SESSIONS,
        app_kwargs={"middleware": [Middleware(Guard, own_hosts(host, port), upload_mib * 2**20 + HEADS)]},
        footer_links=[],
        **dict.fromkeys(("share", "ssr_mode", "pwa", "mcp_server", "run_history", "enable_monitoring", "inbrowser"), False),
        quiet=True,
        prevent_thread_lock=True,
    )
    try:
        yield
    finally:
        blocks.close(verbose=False)


async def _not_got(*_: Any, **__: Any) -> NoReturn:
    raise gr.Error("nothing is asked of other machines here: expected a file that is uploaded", print_exception=False)


def _asset(name: str) -> str:
    return resources.files("jax_ddpm.serving").joinpath("assets", name).read_text(encoding="utf-8")
