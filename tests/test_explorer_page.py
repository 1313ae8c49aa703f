"""The explorer's page in a browser: one file, as `explore` writes it, opened without a server."""

import base64
import importlib.util
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import MODELS, ROOT, needs
from fuzz_verdict import inputs
from random_graphs import qdq
from test_explorer import conv_otherwise

from qlinear import explore, oracle
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load
from tools import explorer_data

ELEMENT = "#image=0&layer=block1_conv2&channel=5&y=10&x=12&mac=0"
LIMIT = """
const calls = window.addressChanges = [];
for (const name of ["replaceState", "pushState"]) {
  const real = history[name].bind(history);
  history[name] = (...all) => {
    calls.push(all[2]);
    if (calls.length > ALLOWED) throw new DOMException("too many", "SecurityError");
    real(...all);
  };
}
"""  # as WebKit does after 100 calls in half a minute


@pytest.fixture(scope="module")
def data() -> dict:
    """Of the book's model and the first four images."""
    whole = explorer_data.site_data()
    return {**whole, "runs": whole["runs"][:4]}


@pytest.fixture(scope="module")
def file(data, tmp_path_factory):
    """The page of ``data``."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(explore.html(data, title="resnet8"), encoding="utf-8")
    return path


class Opened:
    """A page that is open; an exception in it fails the test that closes it."""

    def __init__(self, browser, path, fragment="", *, clock=False, script="", **context):
        self.context = browser.new_context(**context)
        self.page, self.errors = self.context.new_page(), []
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.errors.append(r.url) if "//" in r.url[7:] else None)
        if clock:
            self.page.clock.install()
        if script:
            self.page.add_init_script(script)
        self.page.goto(path.as_uri() + fragment)
        self.page.wait_for_selector(".explorer-verdict-row, .explorer-verdict b")

    def __enter__(self):
        return self.page

    def __exit__(self, kind, *_):
        self.context.close()
        assert kind or not self.errors, self.errors


@pytest.fixture
def opened(browser, file):
    return lambda fragment=ELEMENT, **options: Opened(browser, file, fragment, **options)


def note(page) -> str:
    return page.locator(".explorer-note").inner_text()


def verdict(page) -> str:
    return page.locator(".explorer-verdict-row .verdict").inner_text()


def state(page) -> dict:
    # the address follows when the reader has settled
    page.wait_for_function("location.hash === qlinearExplorer.explorers[0].fragment()")
    return dict(part.split("=") for part in page.url.split("#")[1].split("&"))


# --- the address


def test_a_link_opens_an_element_of_any_node(opened, data):
    with opened() as page:
        for node in data["nodes"]:
            # the second is the tensor that it writes
            for name in (node["name"], node["outputs"][0]):
                page.evaluate("f => { location.hash = f }", f"#image=3&layer={name}&x=1")
                chosen = (
                    f"document.querySelector('.explorer-nodes select').value === '{node['name']}'"
                )
                page.wait_for_function(chosen)
                page.wait_for_selector(".explorer-verdict-row")
                assert verdict(page).endswith("= equal"), name
        assert state(page)["layer"] == "logits"


@pytest.mark.parametrize(
    ("fragment", "said", "shown"),
    [
        ("#image=99&layer=stem", "Image goes from 0 to 3; this is 3.", {"image": "3"}),
        ("#layer=nope", "There is no layer nope.", {"layer": "block1_conv1"}),
        ("#layer=constructor&toString=1", "There is no layer constructor; toString=1 means", {}),
        ("#layer=stem&channel=16", "Output channel goes from 0 to 15; this", {"channel": "15"}),
        ("#layer=stem&y=32&x=99", "Row goes from 0 to 31; this is 31; column goes from 0 to 31",
         {"y": "31", "x": "31"}),
        ("#layer=stem&mac=28", "Mac goes from 0 to 27; this is 27.", {"mac": "27"}),
        ("#layer=stem&channel=3.7", "Channel is a whole number from 0, not 3.7.", {"channel": "0"}),
        ("#layer=stem&y=-1&round=down", "Y is a whole number from 0, not -1; round=down means",
         {"y": "16"}),
        ("#layer=<img src=x onerror=alert()>", "There is no layer <img", {"layer": "block1_conv1"}),
    ],
)  # fmt: skip
def test_what_an_address_cannot_have_is_said_and_put_right(opened, fragment, said, shown):
    with opened(fragment) as page:
        assert note(page).startswith(said)
        assert verdict(page).endswith("= equal")
        assert shown.items() <= state(page).items()
        page.reload()
        page.wait_for_selector(".explorer-verdict-row")
        assert note(page) == ""


@pytest.mark.parametrize("allowed", [100, 0])
def test_a_browser_that_limits_changes_of_the_address_does_not_stop_it(opened, allowed):
    script = LIMIT.replace("ALLOWED", str(allowed))
    with opened(clock=True, script=script) as page:
        page.get_by_role("button", name="play").click()
        page.clock.run_for(15_000)
        assert "product 144 of 144" in page.locator(".explorer-now").inner_text()
        page.locator(".explorer-out canvas").focus()
        page.evaluate("""() => {  // an arrow key that is held
            for (let i = 0; i < 300; i++)
              document.activeElement.dispatchEvent(
                new KeyboardEvent("keydown", { key: i % 2 ? "ArrowLeft" : "ArrowRight" }));
        }""")
        page.keyboard.press("Home")
        page.clock.run_for(1000)
        assert "column 0 is" in page.locator(".explorer-out canvas").get_attribute("aria-label")
        assert page.evaluate("addressChanges.length") <= 3
        assert page.url.endswith(ELEMENT if allowed == 0 else "y=10&x=0&mac=0")


# --- fields, keys and playing


@pytest.mark.parametrize("text", ["3.7", "1e1", "", "-"])
def test_a_field_takes_whole_numbers_only(opened, text):
    with opened() as page:
        box = page.get_by_label("output channel")
        box.fill("") if text in ("", "-") else box.press_sequentially(text)
        box.fill(text) if text not in ("", "-") else None
        box.press("Enter")
        box.blur()
        assert note(page) == "Output channel is a whole number from 0 to 15."
        assert box.input_value() == "5" and verdict(page) == "29 = equal"
        assert state(page)["channel"] == "5"


def test_a_field_that_is_past_its_range_is_brought_back_and_says_so(opened):
    with opened() as page:
        for name, text, least, most in (("row", "99", "", "31"), ("column", "-4", "0", "")):
            box = page.get_by_label(name, exact=True)
            box.fill(text)
            box.blur()
            assert box.input_value() == (most or least)
            assert note(page).lower().startswith(f"{name} goes from 0 to 31")
        assert verdict(page).endswith("= equal")


def test_keys_move_and_space_plays_without_scrolling(opened):
    with opened(clock=True, viewport={"width": 900, "height": 400}) as page:
        canvas = page.locator(".explorer-out canvas")
        canvas.focus()
        for key, wanted in (
            ("ArrowLeft", "row 10, column 11"), ("ArrowUp", "row 9, column 11"),
            ("End", "row 9, column 31"), ("ArrowRight", "row 9, column 31"),
            ("Home", "row 9, column 0"), ("ArrowDown", "row 10, column 0"),
            ("PageDown", "channel 6"), ("PageUp", "channel 5"),
        ):  # fmt: skip
            page.keyboard.press(key)
            assert wanted in canvas.get_attribute("aria-label"), key
        assert canvas.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        top = page.evaluate("scrollY")
        page.keyboard.press("Space")
        now = page.locator(".explorer-now")
        assert now.get_attribute("aria-live") == "off"  # or every step would be spoken
        page.clock.run_for(3000)
        page.keyboard.press("Space")
        assert now.get_attribute("aria-live") == "polite"
        done = int(re.search(r"product (\d+) of 144", now.inner_text())[1])
        assert 0 < done < 144 and page.evaluate("scrollY") == top


def test_another_element_stops_the_sum_and_starts_at_0(opened):
    with opened(clock=True) as page:
        play, now = page.locator(".explorer-play"), page.locator(".explorer-now")

        def choose(name: str) -> None:
            page.get_by_label("layer", exact=True).select_option(name)

        for first, second, count in (("stem", "block3_conv2", 576), ("block3_conv2", "stem", 27)):
            choose(first)
            play.click()
            page.clock.run_for(1000)
            choose(second)
            page.clock.run_for(3000)
            assert play.inner_text() == "▶ play" and f"{count} products" in now.inner_text()
            play.click()
            page.clock.run_for(20_000)
            assert f"product {count} of {count}" in now.inner_text()
            assert play.inner_text() == "▶ play"
        choose("block1_add")  # it has no products to play
        assert not play.is_visible()
        page.locator(".explorer-out canvas").focus()
        page.keyboard.press("Space")
        assert verdict(page).endswith("= equal")


def test_reduced_motion_plays_in_steps(opened):
    with opened(clock=True, reduced_motion="reduce") as page:
        page.get_by_role("button", name="play").click()
        page.clock.run_for(700)
        assert "144 products" in page.locator(".explorer-now").inner_text()
        page.clock.run_for(200)
        assert "product 9 of 144" in page.locator(".explorer-now").inner_text()


# --- what is shown


def test_a_click_on_an_operand_opens_the_element_that_made_it(opened):
    with opened("#image=2&layer=logits&x=3") as page:
        walked = []
        while page.locator(".explorer-tables button").count():
            shown = state(page)
            button = page.locator(".explorer-tables button").last
            row = button.locator("xpath=ancestor::tr").inner_text()
            value = button.inner_text() if "→" not in button.inner_text() else row.split("\t")[1]
            button.click()
            assert verdict(page) == f"{value} = equal", shown
            walked.append(shown["layer"])
        assert walked[:4] == ["logits", "dense", "flatten", "pool"]
        assert walked[-3:] == ["block2_shortcut", "block1_add", "stem"]
        assert state(page)["layer"] == "image"
        # back, as a browser goes and by the buttons
        page.go_back()
        page.wait_for_function("document.querySelector('.explorer').dataset.kind === 'conv'")
        assert state(page)["layer"] == "stem"
        page.locator(".explorer-trail button").last.click()
        assert state(page)["layer"] == "block1_add"
        assert verdict(page).endswith("= equal")


def test_a_click_on_the_input_walks_back_too(opened, data):
    with opened("#image=0&layer=block2_conv1&channel=4&y=3&x=2&mac=1") as page:
        box = page.locator(".explorer-in .explorer-frame").first.bounding_box()
        # the input is 32 x 32, padded by one row and one column after it
        page.mouse.click(box["x"] + box["width"] * 5.5 / 33, box["y"] + box["height"] * 20.5 / 33)
        found = state(page)
        assert (found["layer"], found["y"], found["x"]) == ("block1_add", "20", "5")
        page.go_back()
        page.wait_for_function("location.hash.includes('block2_conv1')")
        page.mouse.click(box["x"] + box["width"] * 32.5 / 33, box["y"] + 3)  # the padding
        assert state(page)["layer"] == "block2_conv1"


def test_a_value_that_differs_is_not_called_equal(browser, data, tmp_path):
    run = {**data["runs"][0], "values": dict(data["runs"][0]["values"])}
    name = "block1_conv2_out_quantized"
    theirs = load_values(run, name)
    theirs[(5 * 32 + 10) * 32 + 12] += 1
    run["values"][name] = explore.stored(theirs)
    path = tmp_path / "page.html"
    path.write_text(explore.html({**data, "runs": [run]}, title="tampered"), encoding="utf-8")
    with Opened(browser, path, ELEMENT) as page:
        assert verdict(page) == "30 ≠ DIFFERENT"
        page.get_by_role("button", name="compare the whole layer").click()
        page.wait_for_selector(".explorer-heat canvas")
        counted = page.locator(".explorer-count").inner_text()
        assert counted.startswith("1 of 16,384 elements of block1_conv2 differ")


def load_values(run: dict, name: str) -> np.ndarray:
    kind, text = run["values"][name]
    return np.frombuffer(base64.b64decode(text), kind).copy()


def test_nodes_without_steps_show_values_and_no_verdict(browser, tmp_path):
    shown = 0
    for seed in (1, 5, 9, 13):
        model, rng = from_proto(qdq(seed)[0]), np.random.default_rng(seed)
        feeds = inputs(model, rng)
        network = oracle.settle(model, feeds)
        values = explore.ort_values(network, feeds)
        made = explore.page_data(network, [explore.Run(values, "random")])
        path = tmp_path / f"{seed}.html"
        path.write_text(explore.html(made, title="random"), encoding="utf-8")
        with Opened(browser, path) as page:
            for node in made["nodes"]:
                page.get_by_label("layer", exact=True).select_option(node["name"])
                said = page.locator(".explorer-steps").inner_text()
                assert ("equal" in said) == bool(node["steps"]), node
                if not node["steps"]:
                    assert "Values only" in page.locator(".explorer-tables").inner_text()
                    shown += 1
    assert shown > 3


def test_what_if_counts_what_numpy_counts(opened):
    model = load(MODELS / "resnet8_int8.onnx")
    network = oracle.settle(model, {"image": load_samples()[0][:1].astype(np.float32)})
    values = explore.ort_values(network, {"image": load_samples()[0][:1].astype(np.float32)})
    node = network.graph.node("block1_conv2_quant")
    x, y = values[node.inputs[0]], values[node.outputs[0]]
    chosen = {"pad": ("0", "0"), "acc": ("16, wrap", "wrap"), "round": ("truncate", "floor")}
    with opened() as page:
        for key, (label, value) in chosen.items():
            page.get_by_role("radio", name=label, exact=True).check()
            differ = conv_otherwise(x, network.graph.conv(node), {key: value}) != y
            wanted = f"{differ.sum():,} of {differ.size:,} elements of block1_conv2 differ"
            here = f"{differ[0, int(state(page)['channel'])].sum()} of 1,024 in this channel"
            page.wait_for_function(
                "t => document.querySelector('.explorer-count').textContent.startsWith(t)",
                arg=wanted,
            )
            assert here in page.locator(".explorer-count").inner_text()
            assert state(page)[key] == value
            page.get_by_role("button", name="next one that differs").click()
            assert verdict(page).startswith("≠") and page.locator("td.changed").count()
            at = state(page)
            assert differ[0, int(at["channel"]), int(at["y"]), int(at["x"])]
            page.locator(f"input[data-key={key}]").first.check()
        assert "No switch is set" in page.locator(".explorer-count").inner_text()


def test_thumbnails_and_the_chart_are_handles(opened):
    with opened() as page:
        box = page.locator(".explorer-all canvas").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.9)
        assert state(page)["channel"] == "14"  # the last of four rows of four
        page.locator(".explorer-strip img").nth(2).click()
        assert state(page)["image"] == "2"
        box = page.locator(".explorer-chart svg").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 40)
        assert 60 < int(state(page)["mac"]) < 80
        page.get_by_role("button", name="linear").click()
        assert "linear" in page.locator(".explorer-chart").inner_text()
        assert verdict(page).endswith("= equal")


# --- what is copied


def copied(page, what: str) -> str:
    """What the note says after the button: read when it is said, as the next element clears it."""
    page.get_by_role("button", name=f"copy {what}").click()
    said = page.wait_for_function(
        "() => document.querySelector('.explorer-note').textContent.match(/cop.*?: (.*)/)"
    )
    return said.json_value()[1]


@pytest.mark.parametrize(
    "fragment",
    [
        "#image=3&layer=block2_conv1&channel=4&y=10&x=11",
        "#image=1&layer=block1_add&channel=1&y=2&x=3",
        "#image=0&layer=dense&x=3",
        "#image=2&layer=pool&channel=7",
    ],
)
def test_the_copied_command_runs_as_it_is_pasted(opened, fragment):
    with opened(fragment) as page:
        shown = verdict(page)
        command = shlex.split(copied(page, "command").removesuffix("."))
        assert command[:3] == ["python", "-m", "qlinear"]
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert command[3] == "explain"
    value = shown.split()[0].replace("−", "-")
    assert done.stdout.rstrip().endswith(f"ONNX Runtime: {value} (equal)")


def test_the_copied_link_opens_the_same_element(opened):
    fragment = "#image=3&layer=block2_conv1&channel=4&y=10&x=11&mac=90&round=floor"
    with opened(fragment) as page:
        assert copied(page, "link").removesuffix(".").endswith(f"page.html{fragment}")


# --- where it is shown


def test_the_small_one_shows_the_way_to_the_byte(browser, data, tmp_path):
    html = explore.html({**data, "runs": data["runs"][:1]}, title="small")
    start = ELEMENT.removeprefix("#")
    html = html.replace("data-explorer data-linked", f'data-explorer="small" data-start="{start}"')
    path = tmp_path / "small.html"
    path.write_text(html, encoding="utf-8")
    with Opened(browser, path, clock=True, viewport={"width": 390, "height": 844}) as page:
        assert page.locator(".explorer-verdict").inner_text().split() == (
            "sum 14,647 byte (int8) 29 ONNX Runtime 29 = equal".split()
        )
        page.clock.run_for(5000)
        assert (
            "144 products" in page.locator(".explorer-now").inner_text()
        )  # it waits for the reader
        page.get_by_role("button", name="play").click()
        page.clock.run_for(15_000)
        assert "product 144 of 144" in page.locator(".explorer-now").inner_text()
        assert page.get_by_role("button").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.url == path.as_uri()


def test_it_works_in_a_frame_that_may_do_nothing_else(browser, data, tmp_path):
    html = explore.html({**data, "runs": data["runs"][:1]}, title="framed")
    frame = html.replace("&", "&amp;").replace('"', "&quot;")
    path = tmp_path / "frame.html"
    path.write_text(f'<iframe sandbox="allow-scripts" srcdoc="{frame}"></iframe>')
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(path.as_uri())
    inside = page.frame_locator("iframe")
    inside.locator(".explorer-verdict-row.equal").wait_for()
    inside.get_by_label("layer", exact=True).select_option("stem")
    inside.locator(".explorer-tables button").first.click()
    page.wait_for_timeout(500)
    assert inside.get_by_label("layer", exact=True).input_value() == "image"
    assert inside.locator(".explorer-verdict-row.equal").count() == 1
    assert not inside.get_by_role("button", name="copy link").is_visible()
    assert not errors
    page.close()


def on_a_site(tmp_path, small=False):
    """A page that loads the explorer as the site's do; its folder, to damage it."""
    folder = tmp_path / "book" / "explorer"
    explorer_data.main(["--out", str(folder)])
    kind = "small" if small else ""
    page = folder.parent / "page.html"
    page.write_text(
        f'<!doctype html><div data-explorer="{kind}" data-linked data-start="">none</div>'
        '<script src="explorer/start.js"></script>'
    )
    return page, folder


@pytest.mark.parametrize(
    ("damage", "small"),
    [(None, False), ("", False), ("window.QLINEAR_VALUES(4, {", False), (None, True)],
)
def test_values_that_do_not_load_leave_no_verdict(browser, tmp_path, damage, small):
    path, folder = on_a_site(tmp_path, small)
    bad = folder / "explorer-ort-04.js"
    good = bad.read_text()
    bad.unlink() if damage is None else bad.write_text(damage)
    tab = browser.new_page()
    errors = []
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.goto(path.as_uri() + "#layer=block1_conv2&channel=5&y=10&x=12&round=floor")
    verdict_there = ".explorer-verdict b" if small else ".explorer-verdict-row .verdict"
    tab.wait_for_selector(verdict_there)
    if not small:
        tab.wait_for_function(
            "document.querySelector('.explorer-count').textContent.includes('differ from')"
        )
    tab.evaluate("location.hash = '#image=4&layer=block1_conv2&channel=5&y=10&x=12&round=floor'")
    tab.wait_for_function(
        "document.querySelector('.explorer-note').textContent.includes('did not load')"
    )
    seen = "['.explorer-count', '.explorer-verdict, .explorer-steps'].map((one) => " \
        "document.querySelector(one)?.textContent ?? '')"  # fmt: skip
    assert set(tab.evaluate(seen)) == {""}
    assert not tab.locator(".explorer-heat").is_visible()
    # what can be pressed all the same does nothing, and nothing of another image comes back
    tab.locator(".explorer-play").click()
    tab.locator(".explorer-chart").click()
    tab.locator(".explorer-out .explorer-frame").click()
    if not small:
        tab.locator(".explorer-tables button").first.click()
        tab.locator(".explorer-in .explorer-frame").first.click()
    assert set(tab.evaluate(seen)) == {""}
    assert errors == [] if damage != "window.QLINEAR_VALUES(4, {" else len(set(errors)) == 1
    bad.write_text(good)
    tab.evaluate("location.hash = '#image=4&layer=block1_conv2&channel=5&y=10&x=13'")
    tab.wait_for_selector(verdict_there)
    assert "equal" in tab.locator(verdict_there).last.inner_text()
    tab.close()


def test_a_choice_during_an_attempt_that_fails_is_another_attempt(browser, tmp_path):
    path, folder = on_a_site(tmp_path, False)
    bad = folder / "explorer-ort-04.js"
    good = bad.read_text()
    bad.unlink()
    tab = browser.new_page()
    # the error of the first attempt is held back until the file is there and chosen once more
    tab.add_init_script("""
        const append = Element.prototype.append;
        Element.prototype.append = function (...all) {
          const [script] = all;
          if (script?.src?.includes("explorer-ort-04") && !window.fail) {
            window.fail = script.onerror;
            return;
          }
          return append.apply(this, all);
        };
    """)
    tab.goto(path.as_uri() + ELEMENT)
    tab.wait_for_selector(".explorer-verdict-row .verdict")
    tab.evaluate("location.hash = '#image=4&layer=block1_conv2&channel=5&y=10&x=12'")
    tab.wait_for_function("Boolean(window.fail)")
    bad.write_text(good)
    tab.evaluate("location.hash = '#image=4&layer=block1_conv2&channel=5&y=10&x=13'")
    tab.wait_for_function("qlinearExplorer.explorers[0].state.x === 13")
    tab.evaluate("window.fail(new Event('error'))")
    tab.wait_for_selector(".explorer-verdict-row .verdict")
    assert "equal" in tab.locator(".explorer-verdict-row .verdict").inner_text()
    tab.close()


def test_an_address_that_is_given_before_the_last_one_is_kept_is_not_lost(opened):
    with opened(ELEMENT) as page:
        page.wait_for_selector(".explorer-verdict-row .verdict")
        there = page.evaluate("""() => {
          const [explorer] = qlinearExplorer.explorers, later = window.setTimeout;
          let write = null;
          window.setTimeout = (call) => { write = call; return 0; };
          explorer.keepAddress();
          window.setTimeout = later;
          location.hash = "#image=1&layer=block1_conv2&channel=5&y=10&x=12";
          write();
          return location.hash;
        }""")
        assert "image=1" in there
        page.wait_for_function("qlinearExplorer.explorers[0].state.image === 1")


def test_differences_of_another_image_or_switch_are_not_seen_while_these_are_computed(opened):
    with opened(ELEMENT + "&round=floor") as page:
        whole = "document.querySelector('.explorer-count').textContent.includes('differ from')"
        page.wait_for_function(whole)
        assert page.locator(".explorer-heat").is_visible()
        seen = page.evaluate("""() => {
          const shown = [], [explorer] = qlinearExplorer.explorers;
          const see = () => shown.push([getComputedStyle(explorer.heat.figure).visibility,
            explorer.heat.figure.hidden, explorer.count.textContent]);
          const pick = () => explorer.root.querySelector("input[data-key=round][value=up]").click();
          for (const change of [pick, () => explorer.set({ image: 2 }),
            () => explorer.set({ layer: "stem" })]) {
            change();
            see();
          }
          return shown;
        }""")
        for visibility, hidden, count in seen:
            assert (hidden or visibility == "hidden") and count == "computing the layer: 0%"
        page.wait_for_function(whole)
        assert page.locator(".explorer-heat").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_has_no_serious_accessibility_violation(opened, theme):
    needs(importlib.util.find_spec("axe_playwright_python") is not None, "axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe

    with opened(color_scheme=theme, viewport={"width": 390, "height": 844}) as page:
        for fragment in (
            "#layer=block1_conv2&mac=20&pad=0&round=floor", "#layer=dense&mac=9&image=77",
            "#layer=block1_add&channel=5&round=floor",
        ):  # fmt: skip
            page.evaluate("f => { location.hash = f }", fragment)
            page.wait_for_timeout(500)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, fragment
            found = [
                (violation["id"], [node["html"][:90] for node in violation["nodes"][:3]])
                for violation in Axe().run(page).response["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
            assert not found, fragment
