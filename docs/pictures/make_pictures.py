"""Makes the pictures of the documentation that show a clip: its timeline, and the page of `cpsl demo`.

`python docs/pictures/make_pictures.py MODEL --asr ASR --face_model FILE`, where MODEL was trained by the recipe
`mosi_words_timing` and ASR is faster-whisper's `tiny.en`. It needs the extras `demo` and `test`, and Chromium. The
clip is the one that `make_clip.py` makes, so that nobody's face or voice is shown.
"""

import argparse
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from modeling_cpsl.experiments.demo import CLIP


FOLDER = Path(__file__).parent
CPSL = [sys.executable, "-m", "modeling_cpsl"]
WIDTH, HEIGHT = 1000, 1300  # of the page


def photograph_page(address: str) -> None:
    """Rates the clip on the page and makes a picture of what it shows."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(300_000)  # milliseconds; the clip is recognised and measured
        page.goto(address)
        page.get_by_role("tab", name="Video").click()
        page.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(CLIP)
        page.locator("[role=tabpanel]:visible video").first.wait_for()
        page.get_by_role("button", name="Rate the video").click()
        player = page.locator("video.cpsl-player")
        player.wait_for()
        player.evaluate("video => new Promise(seen => { video.onseeked = seen; video.currentTime = 2 })")
        player.evaluate("video => window.scrollTo(0, video.getBoundingClientRect().top + window.scrollY - 20)")
        page.wait_for_timeout(1000)  # until it has scrolled, and the subtitle is drawn
        page.screenshot(path=FOLDER / "page.png")


def main() -> None:
    """Makes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--asr", required=True)
    parser.add_argument("--face_model", required=True)
    options = parser.parse_args()
    models = ["--asr", options.asr, "--face_model", options.face_model]
    plot = ["--plot", str(FOLDER / "timeline.png")]
    subprocess.run([*CPSL, "predict", options.model, str(CLIP), *models, *plot], check=True)
    with subprocess.Popen([*CPSL, "demo", options.model, *models], stdout=subprocess.PIPE, text=True) as page:
        try:
            photograph_page(page.stdout.readline().strip())
        finally:
            page.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
