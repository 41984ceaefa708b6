import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter, resample_poly

from data_builders.files import DataError
from data_builders.media.contract import SAMPLING_RATE
from data_builders.media.voice import VOICE_DESCRIPTORS, VOICE_FEATURES, VOICES, voice_descriptors


EMODB = Path(__file__).parents[4] / "shared" / "data" / "emodb"
TIMES = np.arange(2 * SAMPLING_RATE) / SAMPLING_RATE


def column(values, name):
    return values[:, VOICE_FEATURES.index(name)]


def inner(values, name):
    """A descriptor away from the ends of the sound."""
    return column(values, name)[10:-10]


def harmonics(frequency, levels):
    """A voice of two seconds: sines at the multiples of a frequency (a number, or one for each sample)."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(frequency, TIMES.shape)) / SAMPLING_RATE
    return sum(level * np.sin(phase * number) for number, level in enumerate(levels, 1))


def pulses(frequency):
    """What the vocal tract filters: pulses of two seconds, with 6 dB less an octave as a voice has at the lips."""
    phase = np.floor(TIMES * frequency)
    source = np.diff(phase, prepend=0)
    return lfilter([1], [1, -0.97], source)


def noise():
    return np.random.default_rng(0).normal(size=len(TIMES)) * 0.1


def semitones(frequency):
    return 12 * np.log2(frequency / 27.5)


@pytest.mark.parametrize("frequency", [75, 110, 220, 440, 580])
def test_pitch_of_a_steady_voice(frequency):
    values = voice_descriptors(harmonics(frequency, [0.2, 0.1, 0.05, 0.03]))
    np.testing.assert_allclose(inner(values, "f0"), semitones(frequency), atol=0.05)
    assert (inner(values, "voicing") > 0.97).all() and (inner(values, "harmonics_to_noise") > 15).all()
    assert (inner(values, "f0_change") < 0.02).all()


def test_pitch_of_a_glide_is_followed():
    frequency = 100 * 3 ** (TIMES / 2)  # 19 semitones in two seconds
    values = voice_descriptors(harmonics(frequency, [0.2, 0.1, 0.05]))
    centres = (np.arange(200) * 160 + 80)[10:-10]
    np.testing.assert_allclose(inner(values, "f0"), semitones(frequency[centres]), atol=0.2)
    assert np.median(inner(values, "f0_change")) == pytest.approx(19.02 / 200, rel=0.1)


def test_what_only_a_voice_has_is_undefined_without_one():
    of_voice = [
        name for name, _, text in VOICE_DESCRIPTORS if text.split("; ")[-1].endswith(("voiced", "voiced sound"))
    ]
    for sound in (noise(), np.zeros(16000), np.ones(16000)):
        values = voice_descriptors(sound)
        undefined = {name for name in VOICE_FEATURES if np.isnan(column(values, name)).all()}
        assert undefined == set(of_voice)
        rest = [index for index, name in enumerate(VOICE_FEATURES) if name not in undefined]
        assert np.isfinite(values[:, rest]).all()
    assert (column(voice_descriptors(np.zeros(16000)), "loudness") < 0.1).all()


def test_noise_lowers_the_ratio_of_harmonics_to_noise():
    voice = harmonics(150, [0.2, 0.1, 0.05])
    power = np.mean(voice**2)
    for decibels in (20, 10):
        noisy = voice + noise() / np.std(noise()) * np.sqrt(power / 10 ** (decibels / 10))
        assert np.median(inner(voice_descriptors(noisy), "harmonics_to_noise")) == pytest.approx(decibels, abs=1.5)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.02])
def test_jitter_and_shimmer(share):
    generator = np.random.default_rng(0)
    starts = np.rint(np.cumsum(80 * (1 + share * generator.normal(size=390))) * 8).astype(int)  # 200 Hz
    sound = np.zeros(len(TIMES) * 8)  # pulses are placed between samples, and then filtered and thinned out
    sound[starts] = 1 + share * generator.normal(size=390)
    sound = resample_poly(sound, 1, 8)
    values = voice_descriptors(lfilter([0.8], [1, -1.6, 0.9], sound))
    # the median of the distance of two values from a normal distribution is .954 standard deviations
    assert np.nanmedian(inner(values, "jitter")) == pytest.approx(0.954 * share, rel=0.35, abs=0.001)
    assert np.nanmedian(inner(values, "shimmer")) == pytest.approx(share * 0.954 * 8.69, rel=0.35, abs=0.05)


def test_first_harmonics():
    values = voice_descriptors(harmonics(200, [0.2, 0.05, 0.05]))
    np.testing.assert_allclose(inner(values, "h1_h2"), 20 * np.log10(4), atol=0.5)


@pytest.mark.parametrize("pitch", [100, 130])
@pytest.mark.parametrize("resonances", [(730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (300, 870, 2240)])
def test_formants_of_vowels(resonances, pitch):
    sound = pulses(pitch)
    for frequency in (*resonances, 3500, 4500):
        radius = np.exp(-np.pi * 80 / SAMPLING_RATE)
        sound = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * frequency / SAMPLING_RATE), radius**2], sound)
    values = voice_descriptors(sound / np.abs(sound).max())
    for number, frequency in enumerate(resonances, 1):
        assert np.nanmedian(inner(values, f"formant_{number}")) == pytest.approx(frequency, rel=0.12), number


def test_loudness_and_the_balance_of_the_spectrum():
    quiet, loud = (voice_descriptors(noise() * level) for level in (0.1, 1))
    ratio = np.median(inner(loud, "loudness")) / np.median(inner(quiet, "loudness"))
    assert ratio == pytest.approx(100**0.3, rel=0.01)
    assert np.median(inner(loud, "spectral_centroid")) == pytest.approx(4000, rel=0.05)
    low = voice_descriptors(lfilter([1], [1, -0.95], noise()))  # noise with less energy above
    for name in ("spectral_centroid", "alpha_ratio", "slope_500_1500", "spectral_flatness"):
        assert np.median(inner(low, name)) < np.median(inner(loud, name)), name
    assert np.median(inner(low, "hammarberg_index")) > np.median(inner(loud, "hammarberg_index"))
    for name in ("mfcc_2", "mfcc_12", "spectral_flatness", "alpha_ratio"):  # do not depend on the level
        assert np.median(inner(loud, name)) == pytest.approx(np.median(inner(quiet, name)), abs=0.05), name


def test_changes_show_where_something_happens():
    sound = np.concatenate([lfilter([0.02], [1, -0.95], noise()), noise()])
    values = voice_descriptors(sound)
    for name in ("loudness_change", "spectral_flux", "mfcc_1_change"):
        assert abs(int(np.abs(column(values, name)).argmax()) - 200) <= 2, name


def tracks(sound, size, name="cpsl"):
    chunks = (sound[start : start + size] for start in range(0, len(sound), size))
    blocks = list(VOICES[name].tracks(chunks, SAMPLING_RATE))
    return np.concatenate([block.times for block in blocks]), np.concatenate([block.values for block in blocks])


def test_values_do_not_depend_on_chunks_and_blocks():
    words = [harmonics(100 * 1.5 ** np.sin(TIMES * speed), [0.2, 0.1, 0.05]) for speed in range(2, 16)]
    sound = np.concatenate([part for word in words for part in (word, noise()[:5000] * 0.1)]).astype(np.float32)
    times, values = tracks(sound, len(sound))
    assert len(values) > 3000 and values.dtype == np.float32  # several blocks of 10 s
    np.testing.assert_allclose(times, np.arange(len(sound) // 160) * 0.01 + 0.005, atol=1e-9)
    for size in (7_777, 480_000):
        again = tracks(sound, size)
        np.testing.assert_array_equal(again[0], times)
        np.testing.assert_array_equal(again[1], values)
    np.testing.assert_allclose(values, voice_descriptors(sound), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [0, 1, 159])
def test_sound_shorter_than_a_frame_has_no_track(size):
    assert list(VOICES["cpsl"].tracks([np.zeros(size, np.float32)], SAMPLING_RATE)) == []
    assert list(VOICES["cpsl"].tracks([], SAMPLING_RATE)) == []


@pytest.mark.parametrize("name", VOICES)
def test_every_extractor_keeps_its_contract(name):
    extractor = VOICES[name]
    assert len(set(extractor.features)) == len(extractor.features)
    sound = np.concatenate([harmonics(150, [0.2, 0.1, 0.05]), noise()]).astype(np.float32)
    times, values = tracks(sound, 16_000, name)
    assert values.shape == (400, len(extractor.features)) and values.dtype == np.float32
    assert times[0] == pytest.approx(0.005) and times[-1] == pytest.approx(3.995)
    short = tracks(sound[:160], 160, name)
    assert short[1].shape == (1, len(extractor.features))
    with pytest.raises(ValueError, match="16000 Hz"):
        next(extractor.tracks([sound], 8000))


def test_egemaps_is_that_of_opensmile():
    sound = np.concatenate([harmonics(150, [0.2, 0.1, 0.05]), noise()]).astype(np.float32)
    _, values = tracks(sound, 16_000, "egemaps")
    pitch = values[:, VOICES["egemaps"].features.index("F0semitoneFrom27.5Hz_sma3nz")]
    np.testing.assert_allclose(pitch[10:180], semitones(150), atol=0.1)
    assert np.isnan(pitch[210:]).all()
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    assert tuple(smile.feature_names) == VOICES["egemaps"].features


def test_egemaps_without_opensmile_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(DataError, match=r"opensmile is not installed.*\[opensmile\]"):
        next(VOICES["egemaps"].tracks([np.zeros(16000, np.float32)], SAMPLING_RATE))


@pytest.mark.skipif(not EMODB.is_dir(), reason="the recordings of EmoDB are not here")
def test_pitch_of_real_voices_is_that_of_opensmile():
    import soundfile

    differences = []
    for path in sorted(EMODB.glob("*.flac"))[::60]:
        samples, rate = soundfile.read(path, dtype="float32")
        count = len(samples) * SAMPLING_RATE // rate
        sound = np.interp(np.arange(count) * rate / SAMPLING_RATE, np.arange(len(samples)), samples)
        _, ours = tracks(sound.astype(np.float32), 16_000)
        _, theirs = tracks(sound.astype(np.float32), 16_000, "egemaps")
        theirs = theirs[:, VOICES["egemaps"].features.index("F0semitoneFrom27.5Hz_sma3nz")]
        # openSMILE's windows for the pitch begin where the others do, and are 40 ms longer
        differences.append(column(ours, "f0")[2:] - theirs[:-2])
    differences = np.concatenate(differences)
    both = ~np.isnan(differences)
    assert both.mean() > 0.4
    assert np.median(np.abs(differences[both])) < 0.15
    assert (np.abs(differences[both]) < 2).mean() > 0.9
