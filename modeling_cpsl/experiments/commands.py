"""The commands on models. What they need is imported when they run."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data_builders.command_line import CommandParser, comma_separated
from data_builders.commands import MODALITIES_HELP
from data_builders.files import ON_ERROR, DataError


# Of `cpsl predict`, for a clip, and for a data set.
CLIP_OPTIONS = ("asr", "transcript", "words", "face_model", "plot", "subtitles")
TABLE_OPTIONS = ("num_samples", "explain", "on_error", "data_dir", "format", "modalities", "labels")


def train(arguments: Sequence[str]) -> None:
    """Train and evaluate a model from a recipe."""
    from .recipe import parse_arguments

    recipe = parse_arguments(arguments)
    from .run import run_recipe

    try:
        run_recipe(recipe)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("continue with --resume_from_checkpoint last") from None


def predict(arguments: Sequence[str]) -> None:
    """Write a model's predictions for every utterance of a data set, or for every segment of a clip.

    Run the same command again to resume.
    """
    parser = CommandParser(prog="cpsl predict", description=predict.__doc__)
    parser.add_argument("model", help="folder or Hub id of a CPSL model")
    parser.add_argument("data", help="a file or folder of any known format, the name of a data set, or a clip")
    parser.add_argument("out", type=Path, nargs="?", help="the table to write: .parquet, .jsonl or .csv")
    parser.add_argument("--batch_size", type=int, default=32, help="utterances in a forward pass")
    parser.add_argument("--device", help="such as cpu or cuda:1; default: the first accelerator")
    parser.add_argument(
        "--num_samples", type=int, default=1, help="above 1: mean and standard deviation over latent draws"
    )
    parser.add_argument(
        "--explain",
        nargs="?",
        choices=("words",),
        const=True,
        default=False,
        help="add how much each modality matters; words: and each word",
    )
    parser.add_argument("--on_error", choices=ON_ERROR, default="raise", help="skip: leave bad samples out")
    parser.add_argument("--data_dir", help="where the files of a data set given by name are")
    parser.add_argument("--format", help="the data's format, where its content does not tell it")
    parser.add_argument("--modalities", type=comma_separated, help=MODALITIES_HELP)
    parser.add_argument(
        "--labels",
        type=comma_separated,
        help="the columns of true labels to copy, separated by commas; default: label",
    )
    of_clips = parser.add_argument_group("for a video or audio file, where out may be left out")
    of_clips.add_argument("--asr", help="faster-whisper model that recognises the words, folder or Hub id")
    of_clips.add_argument("--transcript", type=Path, help="the words: .srt, .vtt, .json, .TextGrid or plain text")
    of_clips.add_argument("--words", choices=("none",), help="none: without words, by voice and face alone")
    of_clips.add_argument("--face_model", type=Path, help="MediaPipe's face_landmarker.task, for faces")
    of_clips.add_argument("--plot", type=Path, help="the timeline to draw, .png")
    of_clips.add_argument("--subtitles", type=Path, help="the subtitles to write, with the prediction of each, .srt")
    options = parser.parse_args(arguments)
    from data_builders.formats.recognition import is_media

    clip_options = {name: getattr(options, name) for name in CLIP_OPTIONS}
    if is_media(Path(options.data)):
        if given := [name for name in TABLE_OPTIONS if getattr(options, name) != parser.get_default(name)]:
            raise DataError(f"{options.data}: --{given[0]} is for a data set, and this is a clip; leave it out")
        _predict_clip(options)
        return
    if given := [name for name, value in clip_options.items() if value is not None]:
        raise DataError(f"{options.data}: --{given[0]} is for a video or audio file, and this is none")
    if options.out is None:
        parser.error("name the table to write: .parquet, .jsonl or .csv")
    for name in CLIP_OPTIONS:
        delattr(options, name)
    from torch import distributed

    from .prediction import predict_table

    try:
        predicted, before, skipped = predict_table(**vars(options))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues from here") from None
    are_several = distributed.is_available() and distributed.is_initialized()
    if not are_several or distributed.get_rank() == 0:
        print(f"{options.out}: {predicted} utterances predicted now, {before} before, {skipped} skipped")
    if are_several:
        distributed.destroy_process_group()
    if skipped and not predicted + before:
        raise DataError(f"{options.out}: not one utterance could be predicted; the column `error` says why")


def _predict_clip(options: Namespace) -> None:
    """Predicts the segments of a clip, prints them, and writes what was asked for."""
    from data_builders.media.contract import ExtractionSettings

    from .clip_prediction import analyse, check_outputs, segment_lines, write_segments
    from .console import quiet_libraries
    from .loading import load_pipeline
    from .subtitles import check_replaceable, write_subtitles
    from .timeline import plot_timeline

    clip = Path(options.data)
    check_outputs(clip, options.transcript, options.out, options.plot, options.subtitles)
    if options.subtitles:
        check_replaceable(options.subtitles)
    if options.asr is None and options.transcript is None and options.words is None:
        raise DataError(
            f"{clip}: how are its words known? give --transcript FILE, --asr tiny.en (or the folder of another "
            "faster-whisper model), or --words none"
        )
    with quiet_libraries():
        sentiment = load_pipeline(options.model, options.device)
        settings = ExtractionSettings(words=options.words is None, asr=options.asr, face_model=options.face_model)
        analysis = analyse(sentiment, clip, settings, transcript=options.transcript, batch_size=options.batch_size)
    print("\n".join(segment_lines(analysis.segments, analysis.task)))
    for note in analysis.notes:
        print(note, file=sys.stderr)
    if options.out:
        config = sentiment.model.config
        write_segments(analysis, [*(["text"] if config.use_text else []), *config.modality_sizes], options.out)
    if options.plot:
        plot_timeline(analysis, options.plot, title=clip.name)
    if options.subtitles:
        write_subtitles(analysis.segments, options.subtitles, analysis.task)


def export(arguments: Sequence[str]) -> None:
    """Write a model as an ONNX file, which runs without PyTorch and this package."""
    parser = CommandParser(prog="cpsl export", description=export.__doc__)
    parser.add_argument("model", help="folder or Hub id of a CPSL model")
    parser.add_argument("out", type=Path, help="the file to write, such as model.onnx")
    parser.add_argument("--int8", action="store_true", help="8-bit weights: smaller and faster, and less exact")
    options = parser.parse_args(arguments)
    from .console import quiet_libraries
    from .export import export_model
    from .loading import load_pipeline

    with quiet_libraries():
        sentiment = load_pipeline(options.model, "cpu")
        export_model(sentiment.model, sentiment.processor, options.out, int8=options.int8)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB")


def extract_encoder(arguments: Sequence[str]) -> None:
    """Write the text encoder of a model, with what it has learnt, as a plain one for use elsewhere."""
    parser = CommandParser(prog="cpsl extract_encoder", description=extract_encoder.__doc__)
    parser.add_argument("model", help="folder or Hub id of a CPSL model")
    parser.add_argument("out", type=Path, help="the folder to make, for transformers' AutoModel and AutoTokenizer")
    options = parser.parse_args(arguments)
    from .console import quiet_libraries
    from .encoder_extraction import write_encoder
    from .loading import load_pipeline

    with quiet_libraries():
        sentiment = load_pipeline(options.model, "cpu")
        write_encoder(sentiment.model, sentiment.processor.tokenizer, options.out)
    encoder = sentiment.model.base_model
    print(f"{options.out}: {type(encoder).__name__}, {encoder.num_parameters() / 1e6:.1f} million parameters")


def demo(arguments: Sequence[str]) -> None:
    """Show a local page to try a model on: type a sentence, or drop or record a clip."""
    parser = CommandParser(prog="cpsl demo", description=demo.__doc__)
    parser.add_argument("model", help="folder or Hub id of a CPSL model")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; others can then use the page")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--asr", help="a faster-whisper model, which recognises the words of clips")
    parser.add_argument("--face_model", type=Path, help="the file of MediaPipe's FaceLandmarker")
    options = parser.parse_args(arguments)
    from .demo import serve

    serve(**vars(options))
