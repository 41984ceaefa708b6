"""Speech with known words and times, from the synthesiser espeak-ng."""

import ctypes
import ctypes.util
import wave

import numpy as np


_WORD, _RETRIEVAL, _UTF8, _NO_PHONEMES = 1, 1, 1, 0


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_uint64),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def speak(text, *, voice="en-us", words_a_minute=150):
    """What espeak-ng says.

    Returns:
        The samples, int16; the sampling rate; and the time in seconds at which each word begins.
    """
    library = ctypes.CDLL(ctypes.util.find_library("espeak-ng"))
    sampling_rate = library.espeak_Initialize(_RETRIEVAL, 0, None, 0)
    pieces, starts = [], []

    def take(samples, count, events):
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            # espeak-ng sometimes ends a clause with a word that has no letter
            if events[index].type == _WORD and events[index].length:
                starts.append(events[index].audio_position / 1000)
            index += 1
        return 0

    callback = _CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(voice.encode())
    library.espeak_SetParameter(1, words_a_minute, 0)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    library.espeak_Terminate()
    return np.concatenate(pieces), sampling_rate, starts


def write_wave(path, samples, sampling_rate):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sampling_rate)
        file.writeframes(np.asarray(samples, np.int16).tobytes())
    return path
