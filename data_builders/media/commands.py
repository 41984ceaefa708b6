"""The command `cpsl extract`. What it needs is imported when it runs."""

import time
from collections.abc import Sequence
from pathlib import Path

from ..command_line import CommandParser, comma_separated, numbered_part
from ..files import ON_ERROR, DataError, check_at_least_1
from ..label_options import add_label_options
from .contract import MODALITIES, ExtractionSettings


def extract(arguments: Sequence[str]) -> None:
    """Turn video and audio clips into a data set to train on: words, voice and face, aligned word by word."""
    parser = CommandParser(prog="cpsl extract", description=extract.__doc__)
    parser.add_argument("clips", nargs="+", type=Path, help="files of video or sound, or folders of them")
    parser.add_argument("out", type=Path, help="the folder of the data set")
    parser.add_argument(
        "--transcripts", type=Path, help="a folder with an SRT, VTT, JSON, TextGrid or txt file of each clip's name"
    )
    parser.add_argument(
        "--labels", type=Path, help="a CSV file with the columns clip, label and if wanted split, video_id, start, end"
    )
    parser.add_argument(
        "--label_columns", type=comma_separated, default=[], help="the columns of the label, if it is not `label`"
    )
    add_label_options(parser)
    parser.add_argument("--asr", help="the model that recognises words: a faster-whisper folder, or a name (tiny.en)")
    parser.add_argument("--words", choices=("all", "none"), default="all", help="none: half seconds instead of words")
    parser.add_argument(
        "--modalities", type=comma_separated, default=list(MODALITIES), help="what is measured, separated by commas"
    )
    parser.add_argument("--voice", default="cpsl", help="the descriptors of the voice: cpsl or egemaps")
    parser.add_argument("--face_model", type=Path, help="the file face_landmarker.task")
    parser.add_argument("--num_proc", type=int, default=1, help="number of processes")
    parser.add_argument(
        "--shard", type=numbered_part, default="0/1", help="i/n: extract only the i-th of n parts, from 0"
    )
    parser.add_argument("--on_error", choices=ON_ERROR, default="skip", help="skip: leave bad clips out")
    options = parser.parse_args(arguments)
    check_at_least_1(num_proc=options.num_proc)
    if options.transcripts and not options.transcripts.is_dir():
        raise DataError(f"{options.transcripts}: no such folder; --transcripts needs one")
    from ..labels import SENTIMENT
    from .folder import extract_clips, find_clips, summary
    from .labels import read_labels

    labels, label_format = None, SENTIMENT
    if options.labels:
        labels, label_format = read_labels(
            options.labels, columns=options.label_columns, kind=options.label_kind, ranges=options.label_range
        )
    beginning = time.monotonic()
    results = extract_clips(
        find_clips(options.clips),
        options.out,
        ExtractionSettings(
            modalities=tuple(name for name in options.modalities if name != "text"),
            words=options.words == "all",
            asr=options.asr,
            voice=options.voice,
            face_model=options.face_model,
        ),
        transcripts=options.transcripts,
        labels=labels,
        label_format=label_format,
        num_proc=options.num_proc,
        shard=options.shard,
        on_error=options.on_error,
    )
    print(summary(results, time.monotonic() - beginning))
    print(options.out)
