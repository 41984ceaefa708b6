"""From clips to rows: video and audio files become rows of the same format as any other data.

It needs the extra `media` (`pip install .[media]`). What is heavy is loaded when it is used (`extras.load`), so the
package is imported at no cost. Everything streams, so a clip of an hour needs no more memory than one of a minute.

A clip passes these files, in this order; their types are in `contract`:

- `decoding` opens a container: `probe`, `audio_chunks` (16 kHz, mono) and `video_frames` (10 a second).
- `words` gives its words with their times: from `transcripts`, by `forced_alignment` of a text without times, or by
  `recognition`. Without words, the units are half seconds.
- `segmentation` cuts a long recording into utterances.
- `voice` and `face` measure tracks: rows of values at times, NaN where a value is not defined (the pitch of a
  voiceless sound, a frame without a face). Both take an iterator and give an iterator.
- `aggregation` makes one row a word of a track.
- `extraction` puts this together: `extract_clip(path, settings)` gives the rows of one clip.
- `folder` does it for many clips, in several processes (`workers`), with their `labels`, and writes a data set; it is
  the command `cpsl extract`.
"""
