"""A local web page on which a model can be tried: a sentence is typed, or a clip is dropped or recorded.

The page is gradio's, which comes with the extra `demo`. It asks no other server for anything, neither this process
nor the browser, and takes files from those only who upload them.
"""

import errno
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from huggingface_hub import ModelCard

from data_builders.files import DataError, one_line
from data_builders.media import extras
from data_builders.media.contract import SAMPLING_RATE, ExtractionSettings, MediaInfo
from data_builders.media.decoding import audio_chunks, probe
from data_builders.media.transcripts import read_transcript

from ..class_task_cpsl import ClassTask
from ..number_task_cpsl import NumberTask
from ..pipeline_cpsl import MultimodalSentimentPipeline
from ..task_cpsl import SENTIMENT_RANGE, Task
from ..utterances_cpsl import split_text
from .clip_prediction import analyse
from .console import quiet_libraries
from .demo_results import analysis_html, message_html, result_html
from .label_texts import scales
from .loading import load_pipeline


if TYPE_CHECKING:
    import gradio

LOCAL = "127.0.0.1"
MAX_CHARACTERS = 1000  # of a sentence
MAX_SECONDS = 180  # of a clip
MAX_UPLOAD = "100mb"
MOST_NAMES = 12  # of classes that the heading lists
MAX_WAITING = 16  # questions that wait for their turn; one is answered at a time
SECONDS_KEPT = 600  # an upload, before it is removed
STYLE = Path(__file__).with_name("demo.css")
CLIP = Path(__file__).with_name("demo_clip.mp4")  # an example, made by docs/pictures/make_clip.py
EXAMPLES = (
    "I loved every minute of it, and the ending was wonderful.",
    "The acting is good, but the story is terribly boring.",
    "It is a film about two brothers who move to the city.",
    "Honestly, do not waste your money on this one.",
)
NO_CARD = "This model has no card that states its limits. A prediction is no fact about a person."
# Nothing on the page may come from another server, whatever gradio's components would like to load.
ONLY_FROM_HERE = "; ".join(
    (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)


@quiet_libraries()
def serve(
    model: str,
    *,
    host: str = LOCAL,
    port: int | None = None,
    asr: str | None = None,
    face_model: Path | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Shows a page to try a model on, until this process is interrupted.

    Args:
        model: Folder or Hub id of a CPSL model.
        host: The address to listen on. Whoever can reach it can use the page.
        port: The port; None: the first free one from 7860 on.
        asr: A faster-whisper model, which recognises the words of clips; without it they have to be typed in.
        face_model: The file of MediaPipe's FaceLandmarker; None: where it is looked for.
        ready: Is called with the page's address once it can be opened.

    Raises:
        ValueError: `model` is not a CPSL model, or the extra `demo` is not installed.
        OSError: `host` is not an address of this machine, or the port is taken.
    """
    _check_address(host, port)
    with _uploads_of_this_page():
        gradio = extras.load("gradio", extra="demo")
        middleware = extras.load("starlette.middleware", extra="demo")
        sentiment = load_pipeline(model, None)
        settings = ExtractionSettings(asr=asr, face_model=face_model)
        page = make_page(sentiment, limits_of(model), settings, title=Path(model).name)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            allowed_paths=[],
            max_file_size=MAX_UPLOAD,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            run_history=False,
            css_paths=STYLE,
            theme=gradio.themes.Default(primary_hue="blue"),
            app_kwargs={"middleware": [middleware.Middleware(_ContentPolicy)]},
        )
        ready(address)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def make_page(
    sentiment: MultimodalSentimentPipeline, limits: str, settings: ExtractionSettings, *, title: str
) -> "gradio.Blocks":
    """The page of a model.

    Args:
        sentiment: The model's pipeline.
        limits: What its card says of its limits, in Markdown.
        settings: How clips are analysed.
        title: The name of the model.
    """
    import gradio

    def from_text(text: str) -> str:
        return _or_message(lambda: sentence_html(sentiment, text))

    def from_clip(clip: str | None, transcript: str) -> str:
        return _or_message(lambda: clip_html(sentiment, clip, transcript, settings))

    with gradio.Blocks(title=f"CPSL: {title}", analytics_enabled=False, delete_cache=(60, SECONDS_KEPT)) as page:
        gradio.Markdown(heading(title, sentiment.model.task))
        result = gradio.HTML(elem_classes="cpsl-result", render=False)
        with gradio.Tab("Sentence"):
            text = gradio.Textbox(
                label="What is said", placeholder="Type a sentence", lines=2, max_length=MAX_CHARACTERS, autofocus=True
            )
            button = gradio.Button("Rate the sentence", variant="primary")
            _connect([button.click, text.submit], from_text, [text], result)
            _add_examples(gradio, [[example] for example in EXAMPLES], [text], result, from_text)
        for name, make_clip in _clip_inputs(gradio).items():
            with gradio.Tab(name):
                clip = make_clip()
                transcript = gradio.Textbox(
                    label="What is said in it",
                    info=_transcript_hint(settings),
                    lines=2,
                    max_length=MAX_SECONDS * MAX_CHARACTERS // 30,
                )
                button = gradio.Button(f"Rate the {name.lower()}", variant="primary")
                _connect([button.click], from_clip, [clip, transcript], result)
                if name == "Video":
                    _add_examples(gradio, [_clip_example()], [clip, transcript], result, from_clip)
        result.render()
        with gradio.Accordion("Limits of this model", open=True):
            gradio.Markdown(limits, sanitize_html=True)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)


def heading(title: str, task: Task) -> str:
    """The heading of the page and what the model does, in Markdown, which the names of labels cannot be."""
    if task.is_sentiment:
        low, high = SENTIMENT_RANGE
        return f"# How positive does it sound?\nThe model `{title}` rates what is said from −{-low:g} to +{high:g}."
    if isinstance(task, NumberTask):
        rated = ", ".join(f"`{one.name}`" + (f" from {one.span}" if one.span else "") for one in scales(task))
        return f"# How does it sound?\nThe model `{title}` rates what is said: {rated}."
    names = [f"`{name}`" for name in task.names[:MOST_NAMES]] + ["..."] * (len(task.names) > MOST_NAMES)
    which = "which of these it is" if isinstance(task, ClassTask) else "which of these it has"
    return f"# How does it sound?\nThe model `{title}` tells of what is said {which}: {', '.join(names)}."


def sentence_html(sentiment: MultimodalSentimentPipeline, text: str) -> str:
    """The prediction for a typed sentence.

    Raises:
        ValueError: There is none, or it is too long.
    """
    if not text.strip():
        raise ValueError("Type a sentence first.")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"The text has {len(text)} characters; at most {MAX_CHARACTERS} are taken.")
    words = split_text(text)
    result: Any = sentiment({"words": words}, explain="words")
    return f'<div class="cpsl">{result_html(result, words, sentiment.model.task)}</div>'


def clip_html(
    sentiment: MultimodalSentimentPipeline, clip: str | None, transcript: str, settings: ExtractionSettings
) -> str:
    """The analysis of an uploaded or recorded clip.

    Raises:
        ValueError: There is none, it is too long, or it cannot be analysed.
    """
    if clip is None:
        raise ValueError("Drop or record a clip first.")
    path = Path(clip)
    with tempfile.TemporaryDirectory() as folder:
        try:
            info = probe(path)
            _check_length(path, info)
            words = None
            if transcript.strip():
                words = Path(folder, "transcript.txt")
                words.write_text(transcript, encoding="utf-8")
            analysis = analyse(sentiment, path, settings, transcript=words)
        except ValueError as error:
            # Where the file lies on this machine says nothing to whoever has uploaded it.
            message = one_line(error).replace(str(path), path.name).replace(f"{folder}/", "")
            raise ValueError(message) from error
    address = f"gradio_api/file={quote(clip)}" if info.has_video else None
    return f'<div class="cpsl cpsl-clip">{analysis_html(analysis, address)}</div>'


def limits_of(model: str) -> str:
    """What the card of a model says of its limits, in Markdown; a sentence of ours where it has none."""
    path = Path(model, "README.md")
    try:
        content = path.read_text(encoding="utf-8") if Path(model).is_dir() else ModelCard.load(model).content
    except Exception:  # a card is anybody's file, and may be missing or broken; the model works without
        return NO_CARD
    _, _, after = content.partition("\n## Limits\n")
    return after.partition("\n## ")[0].strip() or NO_CARD


def _check_address(host: str, port: int | None) -> None:
    """Refuses an address at which nobody can listen, before the model is loaded."""
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"--port {port}: a port is a number from 1 to 65535")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probing:
        probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probing.bind((host, port or 0))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(f"--port {port}: it is taken at {host}; name another one, or none") from None
            raise OSError(f"--host {host}: {error.strerror}; name an address of this machine") from None


def _check_length(path: Path, info: MediaInfo) -> None:
    """Refuses a clip that is too long; its sound is measured, since a header may say anything."""
    seconds = info.duration
    if info.has_audio:
        heard = 0
        for chunk in audio_chunks(path):
            heard += len(chunk)
            if heard > MAX_SECONDS * SAMPLING_RATE:
                break
        seconds = max(seconds, heard / SAMPLING_RATE)
    if seconds > MAX_SECONDS:
        raise DataError(f"{path}: longer than {MAX_SECONDS / 60:g} minutes; cut it, or run `cpsl predict` on it")


def _or_message(answer: Callable[[], str]) -> str:
    """The answer, or what is wrong with the question, which stays on the page where gradio's own message would go."""
    try:
        return answer()
    except (ValueError, OSError) as error:
        return message_html(one_line(error))


def _connect(events: list[Callable], function: Callable, inputs: list[Any], output: Any) -> None:
    for event in events:
        event(function, inputs, output, api_visibility="private", trigger_mode="once", scroll_to_output=True)


def _add_examples(gradio: Any, examples: list[list[str]], inputs: list[Any], output: Any, function: Callable) -> None:
    """Adds examples that are answered when they are clicked."""
    gradio.Examples(
        examples,
        inputs,
        output,
        function,
        cache_examples=False,
        run_on_click=True,
        label="Examples",
        api_visibility="private",
    )


def _clip_example() -> list[str]:
    """A clip and what is said in it."""
    captions = read_transcript(CLIP.with_suffix(".srt"))
    return [str(CLIP), " ".join(caption.text for caption in captions)]


def _clip_inputs(gradio: Any) -> dict[str, Callable[[], Any]]:
    return {
        "Video": lambda: gradio.Video(
            label="A video: drop a file, or record one", sources=["upload", "webcam"], include_audio=True, height=320
        ),
        "Voice": lambda: gradio.Audio(
            label="Sound: drop a file, or record one",
            sources=["upload", "microphone"],
            type="filepath",
            editable=False,
        ),
    }


def _transcript_hint(settings: ExtractionSettings) -> str:
    if settings.asr is None:
        return "Needed, since no model for speech recognition was given (--asr)."
    return "Leave it empty to have it recognised."


@contextmanager
def _uploads_of_this_page() -> Iterator[None]:
    """A folder of its own for what is uploaded, which goes with the page; gradio's reports to its makers are off."""
    with tempfile.TemporaryDirectory(prefix="cpsl-demo-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        yield


class _ContentPolicy:
    """Sends a content security policy with every answer.

    Args:
        app: The application that answers.
    """

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", ONLY_FROM_HERE.encode()),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)
