"""The commands on models. What they need is imported when they run."""

from collections.abc import Sequence
from pathlib import Path

from data_builders.command_line import CommandParser, comma_separated
from data_builders.commands import MODALITIES_HELP
from data_builders.files import ON_ERROR


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
    """Write a model's predictions for every utterance of a data set. Run the same command again to resume."""
    parser = CommandParser(prog="cpsl predict", description=predict.__doc__)
    parser.add_argument("model", help="folder or Hub id of a CPSL model")
    parser.add_argument("data", help="a file or folder of any known format, or the name of a data set")
    parser.add_argument("out", type=Path, help="the table to write: .parquet, .jsonl or .csv")
    parser.add_argument("--batch_size", type=int, default=32, help="utterances in a forward pass")
    parser.add_argument("--device", help="such as cpu or cuda:1; default: the first accelerator")
    parser.add_argument(
        "--num_samples", type=int, default=1, help="above 1: mean and standard deviation over latent draws"
    )
    parser.add_argument("--explain", action="store_true", help="add how much each modality matters")
    parser.add_argument("--on_error", choices=ON_ERROR, default="raise", help="skip: leave bad samples out")
    parser.add_argument("--data_dir", help="where the files of a data set given by name are")
    parser.add_argument("--format", help="the data's format, where its content does not tell it")
    parser.add_argument("--modalities", type=comma_separated, help=MODALITIES_HELP)
    options = parser.parse_args(arguments)
    from accelerate import PartialState

    from .prediction import predict_table

    try:
        predicted, before, skipped = predict_table(**vars(options))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues from here") from None
    processes = PartialState()
    if processes.is_main_process:
        print(f"{options.out}: {predicted} utterances predicted now, {before} before, {skipped} skipped")
    processes.destroy_process_group()


def compare(arguments: Sequence[str]) -> None:
    """Compare finished runs: runs that differ in their seed alone become one row, mean and standard deviation."""
    parser = CommandParser(prog="cpsl compare", description=compare.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of finished runs")
    parser.add_argument("--split", default="test", help="the split whose metrics are compared")
    parser.add_argument(
        "--metrics", type=comma_separated, help="names separated by commas; default: those that every run has"
    )
    options = parser.parse_args(arguments)
    from .comparison import compare_runs

    print(compare_runs(options.runs, options.split, options.metrics).to_string())


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
