"""The page in a real browser, in front of a real web server, queue and workers."""

import base64
import importlib.util
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from tests.browser import Browser, program
from tests.pictures import encoded, photo
from tests.redis_server import eventually, free_port
from tests.system.client import Client
from tests.system.samples import label_of, samples
from tests.system.stack import Stack, running

KEY = "a-key-of-sixteen-signs"
WIDE, NARROW = (1000, 800), (320, 640)
MAX_IMAGE_BYTES = 100_000
SIZES = {"large": 64, "small": 32}
HOSTILE = "<img src=x onerror=\"document.title='taken over'\">.jpg"


def entry(name: str) -> str:
    network = f"stand-in:batch_ms=5,image_ms=0,size={SIZES[name]}"
    return f"{name}:\n  queue: {name}_queue\n  network: {network}\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    """Two models behind one web server with the page."""
    directory = tmp_path_factory.mktemp("page")
    models = directory / "models.yaml"
    models.write_text("".join(map(entry, SIZES)))
    settings: dict[str, Any] = {
        "MODELS_FILE": str(models),
        "MODEL": "",
        "WEB_PAGE": "1",
        "WEB_PROCESSES": "1",
        "MAX_IMAGE_BYTES": str(MAX_IMAGE_BYTES),
    }
    with running(directory, redis_program, workers=0, **settings) as stack:
        for name in SIZES:
            stack.start_worker(wait=False, MODEL=name)
        for worker in stack.workers:
            stack.wait_for(partial(worker.lines, "ready"), f"{worker.name} is ready", 60)
        yield stack


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()


class Page:
    """The page, as a user has it before the eyes."""

    def __init__(self, browser: Browser, port: int) -> None:
        self.browser = browser
        self.address = f"http://127.0.0.1:{port}/"

    def open(self, size: tuple[int, int] = WIDE, scheme: str = "light") -> None:
        self.browser.show(self.address, size, scheme)
        self.until("document.querySelector('#terminal code').textContent")

    def until(self, script: str) -> Any:
        """Wait until an expression is true; return it."""
        eventually(lambda: self.browser.run(f"return Boolean({script})"), script)
        return self.browser.run(f"return {script}")

    def choose(self, *files: Path) -> None:
        field = self.browser.driver.find_element(By.CSS_SELECTOR, "#files")
        field.send_keys("\n".join(map(str, files)))

    def answers(self, count: int) -> list[dict[str, Any]]:
        """Return what the cards say, newest first, once all have an end."""
        ended = "document.querySelectorAll('#pictures .done, #pictures .failed').length"
        self.until(f"{ended} === {count}")
        cards = """return [...document.querySelectorAll('.card')].map(card => ({
            name: card.querySelector('h3').textContent,
            failed: card.classList.contains('failed'),
            state: card.querySelector('.state').textContent,
            labels: [...card.querySelectorAll('.label')].map(each => each.textContent),
            best: card.querySelector('.percent')?.textContent,
            answered: card.querySelector('summary').textContent,
            parts: card.querySelector('.parts').innerText,
            command: card.querySelector('code').textContent,
            pixels: card.querySelector('img').naturalWidth}))"""
        return cast(list[dict[str, Any]], self.browser.run(cards))

    def news(self) -> str:
        """What a screen reader was told last."""
        return str(self.browser.run("return document.querySelector('#news').textContent"))

    def barriers(self) -> list[str]:
        """What axe has against the page as it is."""
        self.browser.run(axe())
        script = "axe.run().then(found => arguments[0](found.violations))"
        found = self.browser.driver.execute_async_script(script)
        return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]

    def complaints(self) -> list[str]:
        """What the browser's console has, but for answers that are errors."""
        found = self.browser.console()
        return [each for each in found if "Failed to load resource" not in each]


def axe() -> str:
    package = importlib.util.find_spec("axe_playwright_python")
    assert package is not None
    assert package.submodule_search_locations
    (script,) = Path(package.submodule_search_locations[0]).rglob("axe.min.js")
    return script.read_text(encoding="utf-8")


@pytest.fixture
def page(chromium: Browser, stack: Stack) -> Iterator[Page]:
    """The page, just opened. When a test ends, nothing must have been against its policy."""
    page = Page(chromium, stack.port)
    page.open()
    yield page
    assert page.complaints() == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("pictures")
    paths = [directory / f"picture-{number}.jpg" for number in range(12)]
    for path, sample in zip(paths, samples(len(paths)), strict=True):
        path.write_bytes(sample.data)
    return paths


def label(path: Path, size: int = 64) -> str:
    return label_of(path.read_bytes(), size)


# -- pictures and their answers --------------------------------------------------------------------


def test_a_dropped_picture_gets_its_labels_and_where_the_time_went(
    page: Page, files: list[Path]
) -> None:
    data = {"items": [], "files": [str(files[0])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        page.browser.cdp("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)
    assert page.browser.text("#here") == "Drop them anywhere"
    page.browser.cdp("Input.dispatchDragEvent", type="drop", x=300, y=300, data=data)

    (card,) = page.answers(1)

    assert page.browser.text("#here") == ""
    assert (card["name"], card["pixels"]) == ("picture-0.jpg", 80)
    assert (card["labels"][0], len(card["labels"])) == (label(files[0]), 5)
    assert card["best"] == "90 %"
    assert card["answered"].startswith("Answered in ")
    assert card["answered"].endswith(" by large, version 1")
    for part in ("decode", "queue", "model", "network and the rest"):
        assert part in card["parts"]
    assert page.news() == f"picture-0.jpg: {label(files[0])}, 90 %."
    assert page.browser.text("#answers-title") == "1 of 1 picture answered"


def test_a_pasted_picture_is_sent(page: Page) -> None:
    picture = encoded(photo(70, 50, 3), "PNG")
    script = """const [data, done] = arguments;
        const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
        const item = new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})});
        navigator.clipboard.write([item]).then(() => done(""), error => done(String(error)));"""
    driver = page.browser.driver
    for name in ("clipboard-read", "clipboard-write"):
        page.browser.cdp("Browser.setPermission", permission={"name": name}, setting="granted")
    failed = driver.execute_async_script(script, base64.b64encode(picture).decode())
    assert failed == ""
    driver.find_element(By.CSS_SELECTOR, "body").send_keys(Keys.CONTROL, "v")

    (card,) = page.answers(1)

    assert (card["name"], card["pixels"]) == ("image.png", 70)
    assert card["labels"][0] == label_of(picture)


def test_a_pasted_text_is_answered_with_what_to_do(page: Page) -> None:
    driver = page.browser.driver
    page.browser.cdp(
        "Browser.setPermission", permission={"name": "clipboard-write"}, setting="granted"
    )
    driver.execute_async_script("navigator.clipboard.writeText('a text').then(arguments[0])")
    driver.find_element(By.CSS_SELECTOR, "body").send_keys(Keys.CONTROL, "v")

    assert "Copy the picture itself" in page.until("document.querySelector('#complaint').innerText")


def test_many_pictures_are_answered_each_by_itself_and_bad_ones_say_why(
    page: Page, files: list[Path], tmp_path: Path
) -> None:
    text, empty, large = (tmp_path / name for name in (HOSTILE, "empty.png", "large.bmp"))
    text.write_text("this is no picture")
    empty.touch()
    large.write_bytes(bytes(MAX_IMAGE_BYTES + 1))
    page.choose(*files, text, empty, large)

    cards = {card["name"]: card for card in page.answers(len(files) + 3)}

    for path in files:
        assert cards[path.name]["labels"][0] == label(path)
    assert cards[HOSTILE]["state"].startswith("The bytes are no picture of a known format; accept")
    assert cards["empty.png"]["failed"]
    assert cards["large.bmp"]["state"] == (
        "It has 100,001 bytes; this server takes pictures of up to 100,000 bytes."
    )
    summary = "12 of 15 pictures answered, 3 failed"
    assert page.browser.text("#answers-title") == summary
    assert page.news() == f"{summary}."
    assert page.browser.run("return document.title") == "imageserve"

    text.unlink()
    page.browser.run("document.querySelector('#again').click()")
    page.until("document.body.innerText.includes('This file cannot be read: it was moved')")


def test_another_model_is_asked_and_named_in_the_command(page: Page, files: list[Path]) -> None:
    page.until("!document.querySelector('#model').hidden")
    page.browser.driver.find_element(By.CSS_SELECTOR, "#models").send_keys("small")
    page.choose(files[1])

    (card,) = page.answers(1)

    assert card["labels"][0] == label(files[1], SIZES["small"])
    assert " by small, version 1" in card["answered"]
    assert card["command"].endswith("/predict?model=small'")


def test_the_command_of_a_card_asks_the_same(page: Page, files: list[Path], tmp_path: Path) -> None:
    strange = tmp_path / 'it\'s "a"; b, $HOME \\ c.jpg'
    strange.write_bytes(files[2].read_bytes())
    page.choose(strange)
    (card,) = page.answers(1)

    command = shlex.split(card["command"])
    assert command[0] == "curl"
    done = subprocess.run(
        [program("curl"), "--silent", "--show-error", *command[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert f'"label": "{label(strange)}"' in done.stdout


def test_an_answer_is_seen_at_once(page: Page, files: list[Path]) -> None:
    # One frame is 17 ms; of several answers one at least meets no pause of a busy machine.
    watch = """window.seen = [];
        new MutationObserver(changes => {
          if (changes.some(each => each.target.className === "labels"))
            requestAnimationFrame(() => setTimeout(() => seen.push(performance.now())));
        }).observe(document.querySelector("#pictures"), {childList: true, subtree: true});"""
    page.browser.run(watch)
    for number, path in enumerate(files[:4], start=1):
        page.choose(path)
        page.answers(number)
    page.until("seen.length === 4")

    answered = page.browser.run(
        "return performance.getEntriesByType('resource')"
        ".filter(each => each.name.endsWith('/predict')).map(each => each.responseEnd)"
    )
    waits = [at - end for at, end in zip(page.browser.run("return seen"), answered, strict=True)]
    assert 0 < min(waits) <= 100


# -- the cluster -----------------------------------------------------------------------------------


def test_the_state_of_the_cluster_is_shown_and_follows_it(page: Page, files: list[Path]) -> None:
    assert page.until("document.querySelector('#facts').innerText")
    facts = page.browser.text("#facts")
    assert "Waiting\n0" in facts
    assert "Workers\n1" in facts
    assert page.browser.text("#cluster-state") == "The queue of large."
    assert "1 worker could do" in page.browser.text("#rates-note")
    assert "The stand-in answers" in page.browser.text("#stand-in")

    page.choose(*files)
    page.answers(len(files))

    page.until("parseFloat(document.querySelector('#rate').textContent) > 0")
    said = "Pictures a second over two minutes: now "
    assert page.until(f"document.querySelector('#rates').ariaLabel.startsWith('{said}')")
    page.until("document.querySelector('#rates .line').getTotalLength() > 0")


def test_a_server_that_is_gone_is_a_sentence_and_comes_back(
    page: Page, stack: Stack, files: list[Path]
) -> None:
    stack.web.end()
    page.choose(files[0])

    (card,) = page.answers(1)
    assert card["state"].startswith("The server does not answer.")
    page.until("!document.querySelector('#offline').hidden")
    assert page.browser.text("#offline").startswith("The server does not answer.")
    assert page.browser.text("#cluster-state") == "The server does not answer."
    assert page.barriers() == []
    stack.start_web()
    page.until("document.querySelector('#offline').hidden")
    page.browser.run("document.querySelector('.retry button').click()")

    (card,) = page.answers(1)
    assert card["labels"][0] == label(files[0])


def test_a_picture_that_the_server_has_no_room_for_is_sent_again(
    chromium: Browser, stack: Stack, files: list[Path], tmp_path: Path
) -> None:
    with another_web_server(stack, tmp_path, WEB_SLOTS="1") as port:
        page = Page(chromium, port)
        page.open()
        stack.workers[0].pause()
        page.choose(*files[:2])
        page.until("document.body.innerText.includes('The picture is sent again in 1 s.')")
        stack.workers[0].resume()
        cards = page.answers(2)
    assert [card["labels"][0] for card in cards] == [label(path) for path in files[:2]]
    assert page.complaints() == []


@contextmanager
def another_web_server(stack: Stack, directory: Path, **env: str) -> Iterator[int]:
    """Run one more web server on the stack's queues; yield its port."""
    port = free_port()
    own = {"WEB_PORT": str(port), "RUN_DIR": str(directory / "run"), **env}
    web = stack.run("other-web", "web", **own)
    try:
        eventually(lambda: Client(port).status_of("/readyz") == 200, "it is ready", 60)
        yield port
    finally:
        web.end()


def test_a_key_is_asked_for_where_one_is_needed(
    chromium: Browser, stack: Stack, files: list[Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY} name=me rate=0.5 burst=2")
    with another_web_server(stack, tmp_path, API_KEYS_FILE=str(keys)) as port:
        page = Page(chromium, port)
        page.open()
        page.choose(files[0])
        (card,) = page.answers(1)
        assert card["state"] == "An API key is needed: type it in above."

        field = chromium.driver.find_element(By.CSS_SELECTOR, "#key-text")
        field.send_keys("some-other-key-of-mine", Keys.ENTER)
        page.until("document.querySelector('.state').textContent === 'The API key is not valid.'")
        assert chromium.text("#key-note") == "The server refuses this key; the picture says why."
        assert page.barriers() == []
        field.clear()
        field.send_keys(KEY, Keys.ENTER)
        page.until("document.querySelector('.card.done')")
        (card,) = page.answers(1)

        assert card["labels"][0] == label(files[0])
        assert '-H "X-API-Key: $IMAGESERVE_API_KEY"' in card["command"]
        assert KEY not in chromium.run("return document.body.innerText")
        page.open()
        page.choose(files[0])
        assert page.answers(1)[0]["labels"][0] == label(files[0]), "the tab has kept the key"
        page.choose(*files[:3])
        said = "The key me may send 0.5 pictures a second, and 2 at once. The picture is sent again"
        page.until(f"document.body.innerText.includes('{said}')")
        assert [card["failed"] for card in page.answers(4)] == 4 * [False]
        assert page.complaints() == []


# -- for everybody ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1000 px", "320 px"])
def test_there_are_no_barriers_and_nothing_moves_sideways(
    page: Page, files: list[Path], tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    wrong = tmp_path / ("a-name-without-any-place-to-break-it" * 4 + ".jpg")
    wrong.write_text("no picture")
    page.open(size, scheme)
    assert page.browser.run("return innerWidth") == size[0]
    page.until("document.querySelector('#facts').innerText")
    assert page.barriers() == []
    assert page.browser.sideways() <= 0

    for some in ([files[0], wrong], files[:4]):
        page.choose(*some)
        page.answers(len(some) if len(some) == 2 else 6)
        page.browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.barriers() == []
        assert page.browser.sideways() <= 0


def test_the_keyboard_reaches_all_there_is_to_do(page: Page, files: list[Path]) -> None:
    page.choose(files[0])
    page.answers(1)
    reached = []
    for _ in range(14):
        page.browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            page.browser.run(
                "const it = document.activeElement; return it.id || it.textContent.trim()"
            )
        )

    assert reached[:4] == ["models", "choose", "again", "clear"]
    assert any(each.startswith("Answered in") for each in reached)
    assert {"Copy", "Each worker"} < set(reached)


def test_the_policy_of_the_page_is_in_force(page: Page) -> None:
    # What an injected picture, script and piece of HTML would do.
    page.browser.run("""window.got = [];
        addEventListener("securitypolicyviolation", e => got.push(e.effectiveDirective));
        const other = document.createElement("img");
        other.src = "http://127.0.0.1:9/x.png";
        document.body.append(other);
        for (const inject of [
          () => document.body.setAttribute("onclick", "document.title = 1"),
          () => (document.body.innerHTML = "<p>taken over</p>"),
        ]) try { inject(); } catch (error) { got.push(error.name); }""")
    page.until("got.length >= 5")
    found = sorted(page.browser.run("return got"))
    refused = ["require-trusted-types-for"] * 2
    assert found == ["TypeError", "TypeError", "img-src", *refused]
    assert "img-src 'self' blob:" in " ".join(page.complaints())


# -- words -----------------------------------------------------------------------------------------


def test_labels_and_numbers_read_well(page: Page) -> None:
    script = """const [done] = arguments;
        import("/page/words.js").then(words => done({
          labels: ["Egyptian_cat", "n02124075_Egyptian_cat", "n02124075 tabby, cat", "_", "7"]
            .map(words.readable),
          shares: [1, 0.9999999, 0.9546, 0.5, 0.0132, 6e-9, 0].map(words.percent),
          times: [0.04, 3.25, 12.4, 999, 1234, 61000].map(words.milliseconds),
          sizes: [0, 999, 2048, 20480, 3.5 * 2 ** 20].map(words.bytes),
          sentences: ["the picture ends early", "Is it?", ""].map(words.sentence),
          timings: words.timings("decode;dur=1.5, queue;dur=0.2, model;dur=7.0, total;dur=9.1"),
          none: words.timings(null),
          problems: [
            words.problem(503, '{"error": {"code": "busy", "message": "slots are taken"}}').text,
            words.problem(413, "<html>").text,
          ],
        }));"""

    found = page.browser.driver.execute_async_script(script)

    assert found == {
        "labels": ["Egyptian cat", "Egyptian cat", "tabby, cat", "_", "7"],
        "shares": ["100 %", "> 99.9 %", "95.5 %", "50 %", "1.3 %", "< 0.1 %", "0 %"],
        "times": ["0 ms", "3.3 ms", "12 ms", "999 ms", "1.2 s", "61 s"],
        "sizes": ["0 bytes", "999 bytes", "2 KB", "20 KB", "3.5 MB"],
        "sentences": ["The picture ends early.", "Is it?", ""],
        "timings": {"decode": 1.5, "queue": 0.2, "model": 7, "total": 9.1},
        "none": {},
        "problems": [
            "Slots are taken.",
            "Something in front of imageserve, a proxy perhaps, gave this answer, with status 413."
            " It takes smaller pictures only.",
        ],
    }
