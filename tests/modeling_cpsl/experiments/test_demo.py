"""The page in a real browser; one server and one browser serve all tests."""

import importlib.util
import json
import os
import runpy
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
import wave
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from clip_cases import TASKS, result_of
from launching import free_port, launch

import cpsl
from modeling_cpsl.experiments.demo import CLIP, EXAMPLES, MAX_SECONDS, NO_CARD, STYLE, limits_of
from modeling_cpsl.experiments.demo_results import result_html


CHROMIUM = shutil.which("chromium")
LIMITS = "- It has read eleven words in its life."
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(trained_folder, tmp_path_factory):
    """A trained model with a card."""
    folder = shutil.copytree(trained_folder, tmp_path_factory.mktemp("demo") / "little_model")
    (folder / "README.md").write_text(f"---\n---\n# Card\n\n## Limits\n\n{LIMITS}\n\n## Licences\n\nNone.\n")
    return folder


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """The address of the page, whose server is stopped as its user would do it."""
    needs(importlib.util.find_spec("gradio"), "the extra `demo`")
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        server = launch("-m", "cpsl", "demo", model, "--port", free_port())
    address = server.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:"), server.communicate()
    yield address
    server.send_signal(signal.SIGINT)
    output, errors = server.communicate(timeout=60)
    # gradio itself reports the questions for files that it has refused
    assert (server.returncode, output, errors.splitlines()[-1]) == (130, "", "cpsl demo: interrupted")
    assert list(temporary.glob("cpsl-demo-*")) == []


@pytest.fixture(scope="module")
def browser():
    needs(CHROMIUM and importlib.util.find_spec("playwright"), "Chromium and playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser, address):
    """The page as it is opened anew; when the test ends, nothing may have been asked of another server."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.set_default_timeout(300_000)  # milliseconds, however busy the machine is
    requests = []
    page.on("request", lambda request: requests.append(urlsplit(request.url)))
    page.goto(address)
    yield page
    own = urlsplit(address).netloc
    assert {url.netloc for url in requests if url.scheme not in ("data", "blob")} == {own}
    page.close()


def needs(found, what):
    """In the gate nothing may be missing."""
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}")


def test_a_typed_sentence_is_rated(page, tmp_path):
    box = page.get_by_label("What is said", exact=True)
    box.fill("a wonderful <b>movie</b>")
    page.get_by_role("button", name="Rate the sentence").click()
    page.locator(".cpsl-number").wait_for()
    words = page.locator(".cpsl-words > .cpsl-word").all_inner_texts()
    assert [word.split("\n")[0] for word in words] == ["a", "wonderful", "<b>movie</b>"]
    assert all(word.split("\n")[1][0] in "+−0" for word in words)
    assert page.get_by_role("img", name="on a scale from -3 to 3").count() >= 2
    assert LIMITS.removeprefix("- ") in page.inner_text("body")
    for name, width in (("wide", 1100), ("phone", 390)):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)


def test_labels_of_each_kind_fit_on_screens_of_any_width(browser, tmp_path):
    shown = "".join(
        f'<section class="cpsl-segment">{result_html(result_of(task), ["good", "grief"], task)}</section>'
        for task in TASKS.values()
    )
    page = browser.new_page()
    page.set_content(f'<style>{STYLE.read_text()}</style><div class="cpsl">{shown}</div>')
    for name, width in (("wide", 1100), ("phone", 390)):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        bars = [bar.bounding_box() for bar in page.locator(".cpsl-bar").all()]
        assert len(bars) > 15 and min(bar["width"] for bar in bars) > 60
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    page.close()


def test_an_example_is_rated_when_it_is_clicked(page):
    page.get_by_text(EXAMPLES[0]).first.click()
    page.locator(".cpsl-number").wait_for()
    assert page.get_by_label("What is said", exact=True).input_value() == EXAMPLES[0]


def test_no_sentence_and_one_that_is_too_long_are_told(page, address):
    page.get_by_role("button", name="Rate the sentence").click()
    page.get_by_role("alert").filter(has_text="Type a sentence first.").wait_for()


def test_an_uploaded_clip_is_rated_over_its_time(page, tmp_path):
    clip = shutil.copy(CLIP, tmp_path / "my clip & face.mp4")
    page.get_by_role("tab", name="Video").click()
    page.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(clip)
    page.locator("[role=tabpanel]:visible video").first.wait_for()
    said = ["I", "loved", "this", "movie.", "But", "the", "ending", "was", "boring."]
    page.get_by_label("What is said in it").locator("visible=true").fill(" ".join(said))
    page.get_by_role("button", name="Rate the video").click()
    page.locator(".cpsl-segment").first.wait_for()
    segments = page.locator(".cpsl-segment")
    words = segments.locator(".cpsl-words > .cpsl-word").all_inner_texts()
    assert [word.split("\n")[0] for word in words] == said
    assert all(segment.locator(".cpsl-number").inner_text()[0] in "+−0" for segment in segments.all())
    check_clip_results(page, segments.count())
    for name, width in (("wide", 1100), ("phone", 390)):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)


def test_the_clip_among_the_examples_is_rated_when_it_is_clicked(page):
    page.get_by_role("tab", name="Video").click()
    page.get_by_text("I loved this movie.").locator("visible=true").first.click()
    page.locator(".cpsl-segment").first.wait_for()
    check_clip_results(page, page.locator(".cpsl-segment").count())


def check_clip_results(page, num_segments):
    """The picture is there, and the clip is played with its subtitles, which can be taken home."""
    picture = page.locator(".cpsl-timeline img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 1000
    player = page.locator("video.cpsl-player")
    page.wait_for_function("document.querySelector('video.cpsl-player').readyState > 0")
    assert player.evaluate("video => video.duration") == pytest.approx(10, abs=1)
    page.wait_for_function("document.querySelector('video.cpsl-player').textTracks[0].cues?.length > 0")
    assert player.evaluate("video => video.textTracks[0].cues.length") == num_segments
    with page.expect_download() as download:
        page.get_by_role("link", name="Subtitles with the predictions").click()
    assert Path(download.value.path()).read_text().count(" --> ") == num_segments


def silence(path, seconds):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * int(8000 * seconds))
    return path


def test_a_broken_clip_and_one_that_is_too_long_are_told(page, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 4096)
    for clip, told in ((broken, "broken.mp4"), (silence(tmp_path / "long.wav", MAX_SECONDS + 1), "longer than 3 min")):
        page.reload()
        tab = "Video" if clip.suffix == ".mp4" else "Voice"
        page.get_by_role("tab", name=tab).click()
        page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(clip)
        page.get_by_role("button", name=f"Rate the {tab.lower()}").click()
        alert = page.get_by_role("alert").filter(has_text=told)
        alert.wait_for()
        assert "/" not in alert.inner_text()


def ask(url, body=None):
    """The status and the content that a request without a browser gets."""
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../../etc/passwd", "MODEL/config.json", "http://127.0.0.1:1/x"]
)
def test_files_of_the_machine_are_not_given(address, model, path):
    path = path.replace("MODEL", str(model))
    status, content = ask(f"{address}gradio_api/file={path}")
    assert status in (403, 404), content
    config = json.loads(ask(f"{address}config")[1])
    takes_a_file = {component["id"] for component in config["components"] if component["type"] in ("audio", "video")}
    functions = [function for function in config["dependencies"] if takes_a_file & set(function["inputs"])]
    assert len(functions) >= 2
    for function in functions:
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "what is said"]
        question = {"data": data, "fn_index": function["id"], "session_hash": f"test{function['id']}"}
        status, content = ask(f"{address}gradio_api/queue/join", question)
        assert status == 200, content
        _, content = ask(f"{address}gradio_api/queue/data?session_hash={question['session_hash']}")
        assert '"success":false' in content and "root:" not in content, content


def test_there_is_no_interface_for_programs(address):
    assert json.loads(ask(f"{address}gradio_api/info")[1])["named_endpoints"] == {}


def test_the_page_may_load_from_nowhere_else(address):
    with urllib.request.urlopen(address) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self' ")


def test_it_listens_on_this_machine_alone(address):
    port = f"{urlsplit(address).port:04X}"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    assert [where for where in listening if where.endswith(f":{port}")] == [f"0100007F:{port}"]


def test_what_is_in_the_way_is_told_on_one_line(model, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cpsl.main(["demo", str(model), "--port", port]) == 1
    assert cpsl.main(["demo", str(model), "--host", "192.0.2.1"]) == 1
    assert cpsl.main(["demo", str(model), "--port", "99999"]) == 1
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cpsl.main(["demo", str(model)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert all(error.startswith("cpsl demo: error: ") for error in errors)
    told = [f"--port {port}: it is taken", "--host 192.0.2.1: ", "--port 99999: ", "pip install .[demo]"]
    assert all(part in error for part, error in zip(told, errors, strict=True)), errors


def test_the_space_shows_the_model_of_its_variable(repository, monkeypatch):
    _, front_matter, _ = (repository / "demo" / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(front_matter)
    pins = (repository / "constraints.txt").read_text().splitlines()
    assert settings["sdk"] == "gradio" and f"gradio=={settings['sdk_version']}" in pins
    asked = {}
    monkeypatch.setattr(
        "modeling_cpsl.experiments.demo.serve", lambda model, **options: asked.update(options, m=model)
    )
    for name, value in {"CPSL_MODEL": "someone/a-model", "CPSL_ASR": "someone/asr"}.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(repository / "demo" / settings["app_file"]), run_name="__main__")
    assert asked == {"m": "someone/a-model", "asr": "someone/asr", "host": "0.0.0.0", "port": 7860}


def test_limits_come_from_the_card(model, tmp_path):
    assert limits_of(str(model)) == LIMITS
    assert limits_of(str(tmp_path)) == NO_CARD
    (tmp_path / "README.md").write_bytes(b"\xff")
    assert limits_of(str(tmp_path)) == NO_CARD
