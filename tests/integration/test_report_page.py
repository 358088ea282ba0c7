"""report.html in a real browser: opened from a file, without a network, and used."""

from __future__ import annotations

import base64
import json
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sweep_builder import make_corpus, make_job, make_quickstart, trajectories

from plan_tuning.comparison import browser
from plan_tuning.comparison.comparison_files import compare

pytestmark = pytest.mark.integration

HOSTILE = "<script>document.body.dataset.hacked = 'yes'</script> & \"quotes\" </script> 数学 🙂"


class Chromium:
    """A headless Chromium, driven through chromedriver's HTTP interface."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self._address.rpartition(":")[2]
        self._process = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            try:
                self._ask("GET", "/status")
                break
            except OSError:
                time.sleep(0.05)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        # a page that asked for anything from elsewhere would fail to get it
        flags.append("--host-resolver-rules=MAP * ~NOTFOUND")
        options = {
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": options}}
        self._session = f"/session/{self._ask('POST', '/session', body)['sessionId']}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self._address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def run(self, script: str) -> Any:
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def open(self, page: Path, state: str = "") -> None:
        self._ask("POST", f"{self._session}/url", {"url": "about:blank"})
        self._ask("POST", f"{self._session}/url", {"url": page.resolve().as_uri() + state})
        for _ in range(400):
            if self.run("return document.body.dataset.ready") == "true":
                return
            time.sleep(0.05)
        pytest.fail("the page did not become ready: " + self.run("return document.body.innerText"))

    def errors(self) -> list[str]:
        entries = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self) -> bytes:
        return base64.b64decode(self._ask("GET", f"{self._session}/screenshot"))

    def close(self) -> None:
        self._ask("DELETE", self._session)
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    if not (shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("chrome"))):
        pytest.skip("chromium and chromedriver are not installed")
    driver = Chromium()
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sweep = make_quickstart(tmp_path_factory.mktemp("outputs") / "quickstart", n=60)
    compare([sweep], console=False)
    return sweep / "report.html"


def _choose(chromium: Chromium, key: str, label: str) -> None:
    script = f"""
        const select = document.getElementById({json.dumps("f-" + key)});
        const option = [...select.options].find((o) => o.textContent === {json.dumps(label)});
        select.value = option.value;
        select.onchange();
    """
    chromium.run(script)


def _shown(chromium: Chromium) -> str:
    return str(chromium.run("return document.getElementById('shown').textContent"))


def _detail(chromium: Chromium) -> str:
    return str(chromium.run("return document.getElementById('detail').innerText"))


def test_the_page_opens_offline_without_errors(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    assert chromium.errors() == []
    text = page.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    images = chromium.run(
        "return [...document.images].map((image) => [image.alt, image.naturalWidth])"
    )
    assert [alt for alt, _ in images] == [
        "Accuracy by choice",
        "Threshold, yield and correctness",
        "Transfer",
        "Length, missing answers and leaks",
        "Training curves",
    ]
    assert all(width > 100 for _, width in images)
    assert len(chromium.screenshot()) > 10_000


def test_a_sign_never_stands_alone_and_the_way_to_its_meaning_works(
    chromium: Chromium, page: Path
) -> None:
    chromium.open(page)
    deltas = chromium.run(
        "return [...document.querySelectorAll('#table .delta')].map((cell) => cell.textContent)"
    )
    decided = [text for text in deltas if "▲" in text]
    assert decided
    assert all("\u00a0▲" in text for text in decided)
    assert not any(text.endswith("=") for text in deltas)
    chromium.run("document.querySelector('#table a').click()")
    reading = "return document.querySelector('#reading').innerText"
    assert "more seeds needed" in chromium.run(reading)
    assert (
        chromium.run("return document.querySelector('#reading').getBoundingClientRect().top") < 900
    )


def test_verdicts_stand_out_and_what_is_not_public_is_said(
    chromium: Chromium, page: Path, tmp_path: Path
) -> None:
    chromium.open(page)
    verdicts = chromium.run(
        "return [...document.querySelectorAll('#claims strong')].map((s) => s.innerText)"
    )
    assert set(verdicts) <= {"agrees", "disagrees", "undecided"}
    assert len(verdicts) >= 6
    for start in ("base", "m1"):
        facts = {"first_reward": 1, "final_reward": 2}
        make_job(tmp_path, method="grpo", start=start, training=facts, accuracies={"gsm8k": 0.5})
    comparison = compare([tmp_path], console=False)
    chromium.open(tmp_path / "report.html")
    for place in (chromium.run("return document.querySelector('#claims').innerText"),
                  (tmp_path / "comparison.md").read_text()):  # fmt: skip
        assert "No claim is public about start." in place
    assert comparison.silence == ["No claim is public about start."]
    assert "Rewards of GRPO" in chromium.run("return document.querySelector('#table').innerText")


def test_predictions_are_filtered_by_benchmark_method_and_verdict(
    chromium: Chromium, page: Path
) -> None:
    chromium.open(page)
    assert _shown(chromium) == "2,640 of 2,640"  # 22 runs x 2 benchmarks x 60 problems
    _choose(chromium, "benchmark", "microworld")
    _choose(chromium, "method", "m2")
    assert _shown(chromium) == "180 of 2,640"
    _choose(chromium, "verdict", "no_answer")
    marks = chromium.run(
        "return [...document.querySelectorAll('.item .mark')].map((mark) => mark.innerText)"
    )
    assert marks
    assert set(marks) == {"✗"}


def test_two_runs_are_compared_side_by_side(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    _choose(chromium, "benchmark", "microworld")
    _choose(chromium, "a", "m1 filter=two_stage · seed 0")
    _choose(chromium, "b", "sft · seed 0")
    _choose(chromium, "pair", "only the first is right")
    count = int(_shown(chromium).split()[0])
    assert count > 10
    sides = chromium.run("return [...document.querySelectorAll('.side')].map(s => s.className)")
    assert sides == ["side is-right", "side is-wrong"]
    text = _detail(chromium)
    assert "How many apples" in text
    assert "GOLD ANSWER" in text
    assert "PLAN" in text
    _choose(chromium, "pair", "only the second is right")
    assert int(_shown(chromium).split()[0]) < count


def test_a_view_is_kept_in_the_address(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    _choose(chromium, "benchmark", "microworld_depth")
    _choose(chromium, "verdict", "correct")
    state, shown = chromium.run("return location.hash"), _shown(chromium)
    chromium.open(page, state)
    assert _shown(chromium) == shown
    assert not shown.startswith("2,640")


def test_trajectories_show_plan_score_and_execution(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    chromium.run("document.getElementById('tab-trajectories').click()")
    assert _shown(chromium) == "120 of 120"
    text = _detail(chromium)
    assert all(word in text for word in ("CONSTRAINTS", "VERIFIER", "EXECUTION", "score"))
    _choose(chromium, "score", "80 and above")
    assert 0 < int(_shown(chromium).split()[0]) < 120


def test_the_keyboard_moves_through_the_list(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    first = _detail(chromium)
    chromium.run(
        "document.getElementById('list').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true}))"
    )
    assert _detail(chromium) != first


def test_the_settings_of_two_jobs_are_compared(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    keys = chromium.run(
        "return [...document.querySelectorAll('#config-table tr td:first-child')]"
        ".map((cell) => cell.textContent)"
    )
    assert "method" in keys


def test_text_of_models_is_text_and_never_markup(chromium: Chromium, tmp_path: Path) -> None:
    rows = [type(row)(**{**_fields(row), "plan": HOSTILE}) for row in trajectories(2)]
    make_corpus(tmp_path / "c", rows)
    folder = make_job(
        tmp_path / "s", method="m1", n=4, corpus=tmp_path / "c", accuracies={"microworld": 0.5}
    )
    path = folder / "predictions" / "microworld" / "predictions.jsonl"
    changed = [json.loads(line) | {"text": HOSTILE, "plan": HOSTILE, "prompt": HOSTILE}
               for line in path.read_text().splitlines()]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    make_job(tmp_path / "s", method="m2", accuracies={}, status="failed", name="<b>bold</b>")
    compare([tmp_path / "s"], console=False)
    chromium.open(tmp_path / "s" / "report.html")
    assert HOSTILE.rsplit(maxsplit=1)[-1] in _detail(chromium)
    chromium.run("document.getElementById('tab-trajectories').click()")
    assert HOSTILE.rsplit(maxsplit=1)[-1] in _detail(chromium)
    assert chromium.run("return document.body.dataset.hacked || ''") == ""
    assert chromium.run("return document.querySelectorAll('b').length") == chromium.run(
        "return document.querySelectorAll('figcaption b').length"
    )


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in type(row).__dataclass_fields__}


def test_many_predictions_draw_few_lines(chromium: Chromium, tmp_path: Path) -> None:
    for method in ("sft", "m1"):
        make_job(tmp_path, method=method, n=2500, accuracies={"gsm8k": 0.5})
    compare([tmp_path], console=False)
    chromium.open(tmp_path / "report.html")
    assert _shown(chromium) == "5,000 of 5,000"
    assert chromium.run("return document.querySelectorAll('.item').length") < 100
    chromium.run("document.getElementById('list').scrollTop = 1e9")
    for _ in range(100):
        last = chromium.run(
            "return Math.max(...[...document.querySelectorAll('.item')].map(i => i.dataset.index))"
        )
        if last == 4999:
            break
        time.sleep(0.05)
    assert last == 4999
    assert chromium.run("return document.querySelectorAll('.item').length") < 100


def _lengthen(folder: Path, words: Sequence[str], seed: int) -> int:
    """Give a job's answers texts as long as a real student's; return their length in bytes."""
    draw = random.Random(seed)
    path = folder / "predictions" / "gsm8k" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["prompt"] = f"<input>{' '.join(random.Random(row['problem_id']).choices(words, k=45))}"
        row["prompt"] += "</input>"
        row["plan"] = " ".join(draw.choices(words, k=120))
        row["text"] = f"<plan>{row['plan']}</plan> {' '.join(draw.choices(words, k=200))}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.stat().st_size


def test_a_page_of_5000_long_predictions_stays_small_and_opens(
    chromium: Chromium, tmp_path: Path
) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghiklmnoprstu", k=draw.randint(2, 9)))
             for _ in range(3000)]  # fmt: skip
    size = 0
    for number, method in enumerate(("sft", "m1")):
        folder = make_job(tmp_path, method=method, n=2500, accuracies={"gsm8k": 0.5})
        size += _lengthen(folder, words, number)
    comparison = compare([tmp_path], console=False)
    page = tmp_path / "report.html"
    assert size > 15e6
    assert page.stat().st_size < size / 2
    content = browser.browser_payload(comparison.table, comparison.results.runs).content
    assert len(content["predictions"]) == 5000
    assert len(content["problems"]) == 2500  # once, however many runs answered
    assert len(content["strings"]) == len(set(content["strings"]))
    chromium.open(page)
    assert _shown(chromium) == "5,000 of 5,000"
    assert len(_detail(chromium)) > 1500
    chromium.run("const find = document.getElementById('f-find');"
                 f"find.value = {json.dumps(words[0])}; find.oninput();")  # fmt: skip
    assert 0 < int(_shown(chromium).split()[0].replace(",", "")) < 5000
    assert chromium.run("return document.querySelectorAll('*').length") < 3000
    assert chromium.errors() == []


def test_beyond_the_limit_whole_problems_are_left_out_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "MAX_PREDICTIONS", 40)
    for method in ("sft", "m1"):
        make_job(tmp_path, method=method, n=100, accuracies={"gsm8k": 0.5})
    comparison = compare([tmp_path], console=False)
    payload = browser.browser_payload(comparison.table, comparison.results.runs)
    rows = payload.content["predictions"]
    assert len(rows) == 40
    by_run = [{row[1] for row in rows if row[0] == run} for run in (0, 1)]
    assert by_run[0] == by_run[1]
    assert "160 predictions are left out" in payload.left_out
    assert "160 predictions are left out" in (tmp_path / "report.html").read_text()
